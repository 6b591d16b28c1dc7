"""SLAB's simplified linear attention over a whole image.

Equation, per head, with φ the ReLU and P a learned table of positions::

    q, k, v = φ(W_q x), φ(W_k x + P), W_v x
    y = W_out (q^T Σ_j k_j v_j^T / (q · Σ_j k_j + 1e-6) + w * v + c * v)

with w one depthwise convolution for all heads, and c one of all channels in SLAB-CSwin alone. The work is linear in the
cells. Positions are learned for one size of images, and resized for others.

Source: Guo et al. 2024 (arXiv 2405.11582) and ``classification/models/slab_{deit,swin,pvt,cswin}.py`` of
xinghaochen/SLAB at f58db00b. :class:`~seqconv.mixers.linear_attention.slab.SLAB` is the same on sequences.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.linear import Linear
from ....mixers.linear_attention.slab import attend_to_all
from ...mixer_2d import Mixer2d, by_size
from ...positions import resized_positions
from ...registry import register_2d
from ..ss2d import depthwise_conv2d
from .window import check_heads


@register_2d("slab", examples=({"num_heads": 2, "size": [4, 5], "d_conv": 3, "local_conv": 3, "qkv_bias": False},))
class SLAB2d(Mixer2d):
    """Simplified linear attention with convolutions of the values (SLAB).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, a divisor of the width.
        d_conv: rows and columns of the convolution of the values, odd.
        local_conv: those of another one, with taps for each channel; ``None`` for none.
        qkv_bias: whether queries, keys and values have biases.
        size: rows and columns of the images that positions are learned for, one number for squares; ``None`` for none.

    Raises:
        ValueError: heads that do not divide the width, an even convolution, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_conv: int = 5,
        local_conv: int | None = None,
        qkv_bias: bool = True,
        size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(d_model)
        check_heads("slab", d_model, num_heads)
        grid = (size, size) if isinstance(size, int) else (1, 1) if size is None else tuple(size)
        taps = d_conv if local_conv is None else d_conv * local_conv
        if taps < 1 or taps % 2 == 0 or len(grid) != 2 or min(grid) < 1:
            got = f"d_conv={d_conv}, local_conv={local_conv}, size={size}"
            raise argument_error("slab 2-D mixer", got, "odd convolutions, sizes of at least 1", "correct the sizes")
        self.num_heads = num_heads
        self.qkv_proj, self.out_proj = Linear(d_model, 3 * d_model, bias=qkv_bias), Linear(d_model, d_model)
        self.conv2d = depthwise_conv2d(d_model // num_heads, d_conv)
        self.local = None if local_conv is None else depthwise_conv2d(d_model, local_conv)
        self.positions = None if size is None else nn.Parameter(torch.empty(*grid, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Positions of 0."""
        if self.positions is not None:
            nn.init.zeros_(self.positions)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.out_proj(by_size(self._mixed, self.qkv_proj(x), mask))
        return y

    def _mixed(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.chunk(3, dim=-1)
        if self.positions is not None:
            k = k + resized_positions(self.positions, *k.shape[1:3]).to(k.dtype)
        heads = (self.num_heads, self.d_model // self.num_heads)
        q, k, values = (t.flatten(1, 2).unflatten(-1, heads) for t in (F.relu(q), F.relu(k), v))
        y: Tensor = attend_to_all(q, k, values).flatten(2).unflatten(1, v.shape[1:3])
        images = v.movedim(-1, 1)
        by_head = self.conv2d(images.unflatten(1, heads).flatten(0, 1))
        local: Tensor = by_head.unflatten(0, (v.shape[0], self.num_heads)).flatten(1, 2)
        if self.local is not None:
            local = local + self.local(images)
        return y + local.movedim(1, -1)
