"""gⁿConv of HorNet: a depthwise convolution and gates of growing width.

Equation, with n = ``order`` and widths ``d_i = D / 2^(n-1-i)``, i = 0 .. n-1::

    [p, q] = W_in x   (d_0 and d_0 + ... + d_{n-1} channels),    [q_0, ..., q_{n-1}] = s conv2d(q)
    p ← p ⊙ q_0,    p ← (W_i p + b_i) ⊙ q_{i+1}  for i = 0 .. n-2,    y = W_out p

In the "gf" models a filter in the spectrum replaces the convolution (:mod:`~seqconv.vision.mixers.frequency.spectral`).

Source: Rao et al. 2022 (arXiv 2207.14284); hornet.py of raoyongming/HorNet at ac9e2105.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...mixers.convolution.gated.gnconv import gate_widths, recursive_gates
from ..mixer_2d import Mixer2d, by_size, zero_padding_2d
from ..registry import register_2d
from .frequency.spectral import GlobalLocalFilter
from .ss2d import depthwise_conv2d


@register_2d("gnconv", examples=({"order": 2, "d_conv": 3, "scale": 1.0}, {"order": 2, "global_filter": (4, 3)}))
class GnConv2d(Mixer2d):
    """Recursive gated convolution of HorNet.

    Args:
        d_model: width of inputs and outputs.
        order: gates n.
        d_conv: rows and columns of the convolution, odd.
        scale: s, factor of the convolution's outputs.
        global_filter: take a filter in the spectrum instead, stored for this number of frequencies of rows and columns.

    Raises:
        ValueError: an order below 1, a width that ``2^(order-1)`` does not divide, an even ``d_conv``,
            an odd number of filtered channels with ``global_filter``.
    """

    def __init__(
        self,
        d_model: int,
        *,
        order: int = 3,
        d_conv: int = 7,
        scale: float = 1 / 3,
        global_filter: Sequence[int] | None = None,
    ) -> None:
        super().__init__(d_model)
        if d_conv < 1 or d_conv % 2 == 0:
            raise argument_error("gnconv 2-D mixer", f"d_conv={d_conv}", "an odd number", "add or leave out a tap")
        self.widths, self.scale = gate_widths(d_model, order), scale
        self.in_proj = nn.Linear(d_model, 2 * d_model)
        channels = sum(self.widths)
        self.conv2d = depthwise_conv2d(channels, d_conv) if global_filter is None else None
        self.global_filter = None if global_filter is None else GlobalLocalFilter(channels, global_filter)
        self.gate_projs = nn.ModuleList(nn.Linear(d_in, d_out) for d_in, d_out in pairwise(self.widths))
        self.out_proj = nn.Linear(d_model, d_model)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        p, q = self.in_proj(x).split([self.widths[0], sum(self.widths)], dim=-1)
        first, *gates = (self.scale * self._filter(q, mask)).split(self.widths, dim=-1)
        y: Tensor = self.out_proj(recursive_gates(p * first, gates, self.gate_projs))
        return y

    def _filter(self, q: Tensor, mask: Tensor | None) -> Tensor:
        if self.conv2d is None:
            assert self.global_filter is not None
            return q if q.shape[0] == 0 else by_size(self.global_filter, q, mask)  # no transform of nothing
        filtered: Tensor = self.conv2d(zero_padding_2d(q, mask).movedim(-1, 1)).movedim(1, -1)
        return filtered
