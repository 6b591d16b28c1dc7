"""RMT's mixer: softmax attention over the image whose scores decay with the Manhattan distance of the cells.

Equation per head, with ``R_p`` the rotation by the raster index p, d the distance ``|Δrow| + |Δcolumn|`` and
``γ = 1 - 2^(-a - b h / H)`` for head h of H::

    s(p, p') = (R_p q_p) · (R_p' k_p') / √d_k + d(p, p') log γ
    y = W_out (softmax(s) v + conv(v))

``decomposed=True`` applies it along every row and then along every column, with the distance along that axis alone, in
O(cells · (rows + columns)) instead of O(cells²). The convolution is depthwise, 5 by 5.

Source: Fan et al. 2023 (arXiv 2309.11523) and ``classfication_release/RMT.py`` of qhfan/RMT at 32ea2141.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.linear import Linear
from ...mixer_2d import Mixer2d, image_sizes, zero_padding_2d
from ...registry import register_2d
from ..ss2d import depthwise_conv2d

ROTARY_BASE = 10_000
PROJECTION_GAIN = 2**-2.5


@register_2d("manhattan", examples=({"num_heads": 2, "decomposed": False, "decay_shift": 1.0, "d_conv": 3},))
class ManhattanRetention2d(Mixer2d):
    """Attention with a decay by Manhattan distance (RMT).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, of an even number of channels each.
        decomposed: along rows, then along columns, instead of over all pairs of cells.
        decay_shift: a, the larger the slower the decay.
        decay_range: b, how much slower it is at the last heads.
        d_conv: rows and columns of the convolution of the values, odd.

    Raises:
        ValueError: heads that do not divide the width into even parts, an even ``d_conv``, decays below 0.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        decomposed: bool = True,
        decay_shift: float = 2.0,
        decay_range: float = 4.0,
        d_conv: int = 5,
    ) -> None:
        super().__init__(d_model)
        if num_heads < 1 or d_model % (2 * num_heads):
            got, remedy = f"num_heads={num_heads} for d_model={d_model}", "change num_heads"
            raise argument_error("manhattan 2-D mixer", got, "heads of an even number of channels", remedy)
        if d_conv < 1 or d_conv % 2 == 0 or decay_shift <= 0 or decay_range < 0:
            got = f"d_conv={d_conv}, decay_shift={decay_shift}, decay_range={decay_range}"
            wanted = "an odd d_conv, a shift above 0, a range of at least 0"
            raise argument_error("manhattan 2-D mixer", got, wanted, "correct them")
        self.num_heads, self.decomposed, self.decay = num_heads, decomposed, (decay_shift, decay_range)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(d_model, d_model) for _ in range(4))
        self.conv2d = depthwise_conv2d(d_model, d_conv)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small queries, keys and values."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_normal_(projection.weight, gain=PROJECTION_GAIN)
        nn.init.xavier_normal_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        v = self.v_proj(x)
        local = self.conv2d(zero_padding_2d(v, mask).movedim(-1, 1)).movedim(1, -1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in (self.q_proj(x), self.k_proj(x), v))
        q, k = self._rotate(q, k, mask)
        y = self._by_axes(q, k, v, mask) if self.decomposed else self._whole(q, k, v, mask)
        mixed: Tensor = self.out_proj(y.flatten(-2) + local)
        return mixed

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        height, width = q.shape[1:3]
        distance = _distance(height, q)[:, None, :, None] + _distance(width, q)[None, :, None, :]
        distance = distance.flatten(2).flatten(0, 1)
        q, k, v = (t.flatten(1, 2) for t in (q, k, v))
        y = self._attend(q, k, v, distance=distance, mask=None if mask is None else mask.flatten(1))
        whole: Tensor = y.unflatten(1, (height, width))
        return whole

    def _by_axes(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        for _ in range(2):  # along rows, then along columns
            flat = None if mask is None else mask.flatten(0, 1)
            rows = (t.flatten(0, 1) for t in (q, k, v))
            y = self._attend(*rows, distance=_distance(q.shape[2], q), mask=flat)
            v = y.unflatten(0, q.shape[:2]).transpose(1, 2)
            q, k = q.transpose(1, 2), k.transpose(1, 2)
            mask = None if mask is None else mask.transpose(1, 2)
        return v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *, distance: Tensor, mask: Tensor | None) -> Tensor:
        """Softmax over the cells of (rows, cells, heads, channels); padding is no key."""
        bias = distance * self._log_decay(q)[:, None, None]
        if mask is not None:
            # Not -inf: rows of padding alone stay finite.
            bias = bias.masked_fill(~mask[:, None, None], torch.finfo(q.dtype).min)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)).transpose(1, 2)

    def _log_decay(self, like: Tensor) -> Float[Tensor, " heads"]:
        shift, span = self.decay
        heads = torch.arange(self.num_heads, device=like.device, dtype=torch.float32)
        return torch.log(1 - 2 ** (-shift - span * heads / self.num_heads)).to(
            torch.promote_types(like.dtype, torch.float32)
        )

    def _rotate(self, q: Tensor, k: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Neighbouring pairs of channels turned by the raster index of the cell in its own image."""
        height, width, _, channels = q.shape[1:]
        rows = torch.arange(height, device=q.device)[:, None]
        columns = torch.arange(width, device=q.device)
        widths: Any = width
        if mask is not None:
            widths = torch.tensor([w for _, w in image_sizes(mask)], device=q.device)[:, None, None]
        index = rows * widths + columns
        exponents = torch.linspace(0, 1, channels // 2, device=q.device, dtype=torch.float32)
        wide = torch.promote_types(q.dtype, torch.float32)
        angles = index[..., None, None].to(wide) * (1.0 / ROTARY_BASE**exponents).to(wide)
        turn = angles.cos(), angles.sin()
        return _turned(q, *turn), _turned(k, *turn)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return pairs.flatten(-2).to(x.dtype)


def _distance(length: int, like: Tensor) -> Float[Tensor, "length length"]:
    index = torch.arange(length, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return (index[:, None] - index).abs()
