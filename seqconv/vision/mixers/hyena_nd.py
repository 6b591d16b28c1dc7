"""Hyena over images: gates and two-dimensional long convolutions in turn.

Equation, with N = ``order``: ``(x_0, ..., x_{N-1}, v) = shortconv(W_in u)``, the short one depthwise, 3 by 3 and
centred, and then, for n = N-1, ..., 1 and with ``*`` the convolution that depends on the upper left quadrant::

    v ← h_{N-1-n} * (x_n ⊙ v) + D_{N-1-n} ⊙ (x_n ⊙ v)         and finally  y = W_out (x_0 ⊙ v)

``directions`` says how outputs depend on the other quadrants:

==============  ==========================================================================================
``"standard"``  not at all
``"seq"``       the first convolution sees the lower right quadrant, those after it the upper left one
``"4dir"``      everything between the projections runs on the image flipped four ways, with the same filters;
                the four results, flipped back, are mixed by four weights and a bias
``"4dirp"``     the same, mixed by a linear projection of all their channels
``"parallel"``  four sets of gates and values with short filters of their own, all upper left
==============  ==========================================================================================

Source: Zimerman and Wolf, "Multi-Dimensional Hyena for Spatial Inductive Bias", and
pytorch-image-models/timm/models/layers/hyena2d.py of Itamarzimm/HyenaND (commit e8b875ea). That code divides its
convolutions by twice the side of the image; ``divide_by_side`` does so too.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...convolution.spatial import convolve_2d
from ...filters.spatial import DirectFilter2d, HyenaFilter2d, HyenaFilter2dOptions
from ...layers.linear import Linear
from ...layers.residual import Dropout
from ..mixer_2d import Mixer2d, zero_padding_2d
from ..registry import register_2d

DIRECTIONS = ("standard", "seq", "4dir", "4dirp", "parallel")
FLIPS = ((), (2, 3), (3,), (2,))
"""Axes (height is 2, width is 3) flipped in each of the four directions."""


@register_2d(
    "hyena",
    examples=(
        {"l_max": 6, "order": 3, "directions": "4dir", "window": "learned", "filter_order": 8},
        {"l_max": 5, "directions": "seq", "form": "joint", "window": "symmetric", "filter_order": 8},
        {"l_max": 12, "directions": "4dirp", "divide_by_side": True},
        {"l_max": 7, "directions": "parallel", "direct": True},
    ),
)
class Hyena2d(Mixer2d):
    """Gated long convolutions over images.

    Args:
        d_model: width of inputs and outputs.
        l_max: rows and columns of the long filters; larger images are mixed within this window.
        order: number of gates, at least 2; one long convolution less.
        directions: see above.
        direct: taps as parameters instead of a :class:`~seqconv.filters.spatial.HyenaFilter2d`; the options of that
            filter then mean nothing.
        divide_by_side: divide the convolutions, not the skips, by ``2 l_max``, as the original does.
        dropout: probability, after every gate but the last.
        **filter: see :class:`~seqconv.filters.spatial.HyenaFilter2dOptions`.

    Raises:
        ValueError: ``order < 2``, sizes below 1, unknown words.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int = 32,
        order: int = 2,
        directions: str = "standard",
        direct: bool = False,
        divide_by_side: bool = False,
        dropout: float = 0.0,
        **filter: Unpack[HyenaFilter2dOptions],
    ) -> None:
        super().__init__(d_model)
        if directions not in DIRECTIONS:
            raise unknown_name("Hyena2d", "directions", directions, DIRECTIONS)
        if order < 2:
            raise argument_error("Hyena2d", f"order={order}", "order >= 2", "correct the sizes")
        self.l_max, self.order, self.directions = l_max, order, directions
        self.divide_by_side, self.sets = divide_by_side, 4 if directions == "parallel" else 1
        inner, channels = (order + 1) * d_model, (order - 1) * d_model
        self.in_proj = Linear(d_model, inner)
        self.short_conv = nn.Conv2d(inner, self.sets * inner, 3, padding=1, groups=inner)
        self.filter = (
            DirectFilter2d(channels, l_max=l_max) if direct else HyenaFilter2d(channels, l_max=l_max, **filter)
        )
        self.D = nn.Parameter(torch.empty(order - 1, d_model))
        if directions in ("4dir", "4dirp"):
            self.mix = Linear(4, 1) if directions == "4dir" else Linear(4 * d_model, d_model)
        self.dropout = Dropout(dropout)
        self.out_proj = Linear(self.sets * d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from N(0, 1)."""
        nn.init.normal_(self.D)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        height, width = x.shape[1:3]
        u = zero_padding_2d(self.in_proj(x), mask).movedim(-1, 1)
        u = zero_padding_2d(self.short_conv(u).movedim(1, -1), mask).movedim(-1, 1)
        *gates, v = u.unflatten(1, (self.sets, -1)).flatten(0, 1).chunk(self.order + 1, dim=1)
        taps = self.filter(height, width)
        taps = (taps / (2 * self.l_max) if self.divide_by_side else taps).chunk(self.order - 1)
        if self.directions in ("4dir", "4dirp"):
            y = self._merge(self._recur([_views(gate) for gate in gates], _views(v), taps))
        else:
            y = self._recur(gates, v, taps).unflatten(0, (-1, self.sets)).flatten(1, 2).movedim(1, -1)
        mixed: Tensor = self.out_proj(y)
        return mixed

    def _recur(self, gates: Sequence[Tensor], v: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """Everything between the short convolution and the output projection, channels first."""
        for stage, gate in enumerate(reversed(gates[1:])):
            v = self.dropout(v * gate)
            lower_right = self.directions == "seq" and stage == 0
            v = v.flip(2, 3) if lower_right else v
            v = convolve_2d(v, taps[stage], skip=self.D[stage])
            v = v.flip(2, 3) if lower_right else v
        return v * gates[0]

    def _merge(self, y: Tensor) -> Float[Tensor, "batch height width d_model"]:
        """The four directions, flipped back, as one."""
        back = [part.flip(axes) for part, axes in zip(y.chunk(len(FLIPS)), FLIPS, strict=True)]
        stacked = torch.stack(back, dim=-1).movedim(1, -2)
        mixed: Tensor = self.mix(stacked if self.directions == "4dir" else stacked.flatten(-2))
        return mixed.squeeze(-1) if self.directions == "4dir" else mixed


def _views(t: Tensor) -> Tensor:
    """The four directions, one after the other along the batch."""
    return torch.cat([t.flip(axes) for axes in FLIPS])
