"""Continuous kernel convolution of maps with any number of axes, zero-padded or periodic along each.

Equation: ``y = k * x + D ⊙ x`` in every channel, with the taps k of :mod:`~seqconv.filters.implicit.grids` and lags of
both signs along every axis: ``-(n - 1), ..., n - 1`` for n cells. Along a periodic axis, and along all with
``half_reach``, n is replaced by ``(n + 1) // 2`` here and in ``l_max``, so that no two taps meet the same cell. A
causal convolution (one axis) leaves out the lags below zero.

Sources: Knigge et al. 2023, "Modelling Long Range Dependencies in N-D" (arXiv 2301.10540), and
nvsubquadratic/modules/ckconv_nd.py of NVIDIA-BioNeMo/nvSubquadratic (commit 51291129).
"""

from collections.abc import Sequence
from typing import Annotated, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....convolution.grids import convolve_grid
from ....filters.implicit.grids import GridFilter, GridFilterOptions
from ....options import Default, select_options, with_defaults
from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d

PADDINGS = ("zero", "circular")


class GridConvolutionOptions(GridFilterOptions, total=False):
    """Options of a :class:`CKConvNd` that a mixer hands on.

    Attributes:
        l_max: cells along every axis that span the filter's positions from 0 to 1; one number for all axes, or a list.
        padding: ``"zero"`` or ``"circular"`` for all axes, or a list with a word for each.
        half_reach: see above.
    """

    l_max: Annotated[int | Sequence[int], Default(32)]
    padding: Annotated[str | Sequence[str], Default("zero")]
    half_reach: Annotated[bool, Default(False)]


class CKConvNd(nn.Module):
    """Depthwise convolution of ``(batch, *size, d_model)`` by a function of the position.

    Args:
        d_model: width of inputs and outputs.
        axes: of a map, 1 or more.
        causal: outputs depend on no later cell; for one axis with zero padding.
        condition_dim: width of a vector for every map that its taps depend on; 0: they depend on nothing.
        **options: see :class:`GridConvolutionOptions` and :class:`~seqconv.filters.implicit.grids.GridFilterOptions`.

    Raises:
        ValueError: a list of another length than ``axes``, unknown words, a causal convolution of several axes or a
            periodic one, or as the filter.
    """

    def __init__(
        self,
        d_model: int,
        *,
        axes: int,
        causal: bool = False,
        condition_dim: int = 0,
        **options: Unpack[GridConvolutionOptions],
    ) -> None:
        super().__init__()
        o = with_defaults(GridConvolutionOptions, options, "CKConvNd")
        l_max = [o["l_max"]] * axes if isinstance(o["l_max"], int) else list(o["l_max"])
        padding = [o["padding"]] * axes if isinstance(o["padding"], str) else list(o["padding"])
        for word in padding:
            if word not in PADDINGS:
                raise unknown_name("CKConvNd", "padding", word, PADDINGS)
        self.periodic = tuple(word == "circular" for word in padding)
        if not axes or {len(l_max), len(padding)} != {axes} or (causal and (axes > 1 or any(self.periodic))):
            got = f"axes={axes}, l_max={o['l_max']}, padding={o['padding']!r}, causal={causal}"
            wanted = "one l_max and one padding for every axis; one zero-padded axis if causal"
            raise argument_error("CKConvNd", got, wanted, "correct the options")
        self.d_model, self.causal = d_model, causal
        self.halved = tuple(wrap or o["half_reach"] for wrap in self.periodic)
        filter = select_options(GridFilterOptions, o)
        self.filter = GridFilter(d_model, l_max=self._reach(l_max), condition_dim=condition_dim, **filter)
        self.D = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from U(±d_model^-½)."""
        nn.init.uniform_(self.D, -(self.d_model**-0.5), self.d_model**-0.5)

    def taps(
        self, x: Float[Tensor, "batch *size d_model"], condition: Float[Tensor, "batch condition_dim"] | None = None
    ) -> Float[Tensor, "#batch *taps d_model"]:
        """The taps for maps of the size of ``x``, lags below zero first."""
        return cast(Tensor, self.filter(self._reach(x.shape[1:-1]), x, condition))

    def forward(
        self, x: Float[Tensor, "batch *size d_model"], condition: Float[Tensor, "batch condition_dim"] | None = None
    ) -> Float[Tensor, "batch *size d_model"]:
        """The convolution.

        Raises:
            ValueError: another number of axes or channels, a condition of a module without one.
        """
        if x.dim() != 2 + len(self.periodic) or x.shape[-1] != self.d_model:
            got, wanted = f"x of shape {tuple(x.shape)}", f"(batch, {len(self.periodic)} axes, {self.d_model})"
            raise argument_error("CKConvNd", got, wanted, "reshape the input")
        taps = self.taps(x, condition)
        if self.causal:
            reach = taps.shape[1] // 2  # the lags are -reach, ..., reach
            taps = torch.cat([torch.zeros_like(taps[:, :reach]), taps[:, reach:]], dim=1)
        return convolve_grid(x, taps, self.periodic) + self.D * x

    def _reach(self, size: Sequence[int]) -> list[int]:
        return [(n + 1) // 2 if halved else n for n, halved in zip(size, self.halved, strict=True)]


@register_2d(
    "ckconv",
    examples=(
        {"l_max": 6, "hidden": 8, "emb_dim": 6, "omega_0": 1.0, "padding": ["circular", "zero"], "window": "gaussian"},
        {"l_max": 5, "hidden": 6, "emb_dim": 6, "omega_0": 0.3, "network": "fourier", "window": "exponential"},
    ),
)
class CKConv2d(Mixer2d):
    """Convolution with a continuous kernel as large as the image (nvSubquadratic).

    Args:
        d_model: width of inputs and outputs.
        **options: see :class:`GridConvolutionOptions` and :class:`~seqconv.filters.implicit.grids.GridFilterOptions`.

    Raises:
        ValueError: as :class:`CKConvNd`.
    """

    def __init__(self, d_model: int, **options: Unpack[GridConvolutionOptions]) -> None:
        super().__init__(d_model)
        self.conv = CKConvNd(d_model, axes=2, **options)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self.conv, x, mask)

    def _change_rate(self, rate: float) -> None:
        self.conv.filter.change_rate(rate)
