"""XCiT's mixer: attention between channels, and the local part of its block.

Equation per head of d channels, with q and k of unit length along the cells::

    y = W_out (softmax(τ q kᵀ) v)        q kᵀ is d by d

Its block is :class:`~seqconv.vision.backbones.block.Block2d` with ``local_interaction``: three parts are added with a
factor per channel each, the attention, local patch interaction ``conv(norm(gelu(conv(x))))`` with depthwise 3 by 3
convolutions and a batch norm, and an MLP.

Restormer's multi-Dconv head transposed attention is the same with a 3 by 3 depthwise convolution of q, k and v.

Source: El-Nouby et al. 2021 (arXiv 2106.09681) and ``xcit.py`` of facebookresearch/xcit at 82f5291f; Zamir et al. 2022
(arXiv 2111.09881) and ``basicsr/models/archs/restormer_arch.py`` of swz30/Restormer at df766d55.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.linear import Linear
from ...mixer_2d import Mixer2d, zero_padding_2d
from ...registry import register_2d
from ..ss2d import depthwise_conv2d


@register_2d("xca", examples=({"num_heads": 2, "bias": False, "out_bias": False, "d_conv": 3},))
class CrossCovariance2d(Mixer2d):
    """Attention between channels (XCiT).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, a divisor of the width.
        bias: whether queries, keys and values, and their convolution, have biases.
        out_bias: whether the last projection has one.
        d_conv: rows and columns of a depthwise convolution of queries, keys and values, odd; ``None`` for none.

    Raises:
        ValueError: heads that do not divide the width, an even ``d_conv``.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        bias: bool = True,
        out_bias: bool = True,
        d_conv: int | None = None,
    ) -> None:
        super().__init__(d_model)
        if d_conv is not None and (d_conv < 1 or d_conv % 2 == 0):
            raise argument_error("xca 2-D mixer", f"d_conv={d_conv}", "an odd number", "add or leave out a tap")
        if num_heads < 1 or d_model % num_heads:
            got = f"num_heads={num_heads} for d_model={d_model}"
            raise argument_error("xca 2-D mixer", got, "a divisor of the width", "change num_heads")
        self.num_heads = num_heads
        self.qkv_proj = Linear(d_model, 3 * d_model, bias=bias)
        self.conv2d = None if d_conv is None else depthwise_conv2d(3 * d_model, d_conv, bias=bias)
        self.out_proj = Linear(d_model, d_model, bias=out_bias)
        self.temperature = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Temperatures of one."""
        nn.init.ones_(self.temperature)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = zero_padding_2d(self.qkv_proj(x), mask)
        if self.conv2d is not None:
            qkv = zero_padding_2d(self.conv2d(qkv.movedim(-1, 1)).movedim(1, -1), mask)
        qkv = qkv.flatten(1, 2)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1) for t in qkv.chunk(3, dim=-1))
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature[:, None, None]
        mixed = (scores.softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2)
        y: Tensor = self.out_proj(mixed.unflatten(1, x.shape[1:3]))
        return y


class LocalPatchInteraction(nn.Module):
    """``conv(norm(gelu(conv(x))))`` of every channel by itself (XCiT)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = depthwise_conv2d(d_model, 3), depthwise_conv2d(d_model, 3)
        self.norm = nn.BatchNorm2d(d_model)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix neighbouring cells."""
        hidden = self.norm(F.gelu(self.conv1(x.movedim(-1, 1))))
        y: Tensor = self.conv2(hidden).movedim(1, -1)
        return y
