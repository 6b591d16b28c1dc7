"""PVT's attention: queries of all cells, keys and values of a smaller image.

Equation per head of d channels, with r×r cells of ``norm(conv(x))`` for each key::

    q, [k, v] = W_q x, W_kv norm(conv(x)),        y_i = W_out Σ_j softmax_j(q_i · k_j / √d) v_j

With ``reduction=1`` there is neither convolution nor norm. Rows and columns that fill no key are left out, as in the
original; an image smaller than one key is padded with zeros to one.

Source: Wang et al. 2021 (arXiv 2102.12122) and ``classification/models/slab_pvt.py`` (Attention) of xinghaochen/SLAB at
f58db00b.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.linear import Linear
from ....layers.norms import create_norm
from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d
from .window import check_heads


@register_2d("reduced_attention", examples=({"num_heads": 2, "reduction": 2, "qkv_bias": False},))
class ReducedAttention2d(Mixer2d):
    """Attention to a smaller image (PVT).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, a divisor of the width.
        reduction: rows and columns of cells for each key.
        qkv_bias: whether queries, keys and values have biases.
        norm: name of the norm of the smaller image, see :mod:`~seqconv.layers.norms`.
        norm_options: its options.

    Raises:
        ValueError: heads that do not divide the width, a reduction below 1, an unknown norm.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        reduction: int = 1,
        qkv_bias: bool = True,
        norm: str = "layer",
        norm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(d_model)
        check_heads("reduced_attention", d_model, num_heads)
        if reduction < 1:
            got, remedy = f"reduction={reduction}", "take 1 for no reduction"
            raise argument_error("reduced_attention 2-D mixer", got, "at least 1", remedy)
        self.num_heads, self.reduction = num_heads, reduction
        self.q_proj, self.kv_proj = (Linear(d_model, n * d_model, bias=qkv_bias) for n in (1, 2))
        self.out_proj = Linear(d_model, d_model)
        self.conv2d, self.norm = None, None
        if reduction > 1:
            self.conv2d = nn.Conv2d(d_model, d_model, reduction, stride=reduction)
            self.norm = create_norm(norm, d_model, **(norm_options or {}))

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self._mixed, x, mask)

    def _mixed(self, x: Tensor) -> Tensor:
        q = self._heads(self.q_proj(x))
        k, v = (self._heads(part) for part in self.kv_proj(self._reduced(x)).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = self.out_proj(mixed.unflatten(1, x.shape[1:3]))
        return y

    def _reduced(self, x: Tensor) -> Tensor:
        if self.conv2d is None or self.norm is None:
            return x
        below, right = (max(self.reduction - size, 0) for size in x.shape[1:3])
        y: Tensor = self.norm(self.conv2d(F.pad(x, (0, 0, 0, right, 0, below)).movedim(-1, 1)).movedim(1, -1))
        return y

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.flatten(1, 2).unflatten(-1, (self.num_heads, self.d_model // self.num_heads))
        return heads.transpose(1, 2)
