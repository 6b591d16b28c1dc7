"""S4D: the impulse response of a diagonal state space (Gu et al., 2022, arXiv 2206.11893; DSS: Gupta et al., 2022).

``K[l] = 2 Re(sum_n C_n Bd_n exp(l log Ad_n))`` with, per pole, ``Ad = exp(dt A)``, ``Bd = B (exp(dt A) - 1) / A``
(zero-order hold) or ``Ad = (1 + dt A / 2) / (1 - dt A / 2)``, ``Bd = B dt / (1 - dt A / 2)`` (bilinear).
``dss`` divides the zero-order hold by the sum of its powers over the length instead, and has no factor 2.
"""

from typing import Annotated, Literal, TypedDict, Unpack

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from seqconv_kernels import vandermonde
from seqconv_kernels._core.errors import argument_error, unknown_name

from ...options import Default, select_options, with_defaults
from ..base import Recurrence
from .diagonal import DiagonalSSM
from .state_space import StateSpace, StateSpaceFilter, StateSpaceOptions

DISCRETISATIONS = ("zoh", "bilinear", "dss")


class _DiscretisationOptions(TypedDict, total=False):
    disc: Annotated[str, Default("zoh")]
    dss_length: Annotated[int, Default(0)]
    is_real: Annotated[bool, Default(False)]


class S4DFilterOptions(_DiscretisationOptions, StateSpaceOptions, total=False):
    """Options of :class:`S4DFilter`.

    Attributes:
        disc: ``"zoh"``, ``"bilinear"`` or ``"dss"``.
        dss_length: taps over which ``dss`` normalises. 0: those asked for, as in the original; the response then
            depends on the length, and there is no recurrence.
        is_real: real poles instead of conjugate pairs.
        d_state ... B_clip: see :class:`~seqconv.filters.state_space.state_space.StateSpaceOptions`.
    """


class S4DFilter(StateSpaceFilter):
    """Impulse response of a diagonal state space, with its recurrence.

    Args:
        features: independent inputs.
        heads: outputs per input, which share A, B and dt and have a C each.
        **options: see :class:`S4DFilterOptions`.

    Raises:
        ValueError: unknown discretisation, or as the base class.
    """

    def __init__(self, features: int, *, heads: int = 1, **options: Unpack[S4DFilterOptions]) -> None:
        o = with_defaults(S4DFilterOptions, options, "S4DFilter")
        disc, dss_length = o["disc"], o["dss_length"]
        if disc not in DISCRETISATIONS:
            raise unknown_name("S4DFilter", "disc", disc, DISCRETISATIONS)
        if dss_length < 0 or (dss_length and disc != "dss"):
            got = f"dss_length={dss_length} with disc={disc!r}"
            raise argument_error("S4DFilter", got, "a number of taps, for disc='dss'", "drop dss_length")
        super().__init__(
            features,
            heads=heads,
            is_real=o["is_real"],
            recurrent=disc != "dss" or dss_length > 0,
            **select_options(StateSpaceOptions, options),
        )
        self.disc, self.dss_length = disc, dss_length
        self.reset_parameters()

    def change_rate(self, rate: float) -> None:
        if self.disc == "dss":
            wanted = "disc='zoh' or 'bilinear': 'dss' divides by a sum over its taps"
            raise argument_error("S4DFilter.change_rate", "disc='dss'", wanted, "resample the inputs instead")
        super().change_rate(rate)

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        log_poles, residues = self._modes(length)
        return vandermonde(residues, log_poles, length).reshape(self.channels, length)

    def _recurrence(self) -> Recurrence | None:
        if not self.recurrent:
            return None
        log_poles, residues = self._modes(self.dss_length)
        return DiagonalSSM(_expm1(log_poles).repeat(self.heads, 1), residues.flatten(0, 1))

    def discretised(self) -> tuple[Inexact[Tensor, "features d_state"], Inexact[Tensor, "features d_state"]]:
        """``(log Ad, Bd)``: ``x_t = Ad x_{t-1} + Bd u_t``; ``dss`` counts as zero-order hold without its sum."""
        return discretise(self.state_space(), "bilinear" if self.disc == "bilinear" else "zoh")

    def _modes(self, length: int) -> tuple[Tensor, Tensor]:
        """Logarithms of the discrete poles, and their residues in the impulse response, of one dtype."""
        space = self.state_space()
        if self.disc == "dss":
            return space.dt * space.A, space.C * _dss_weights(space, self.dss_length or length)
        log_poles, B = discretise(space, self.disc)
        return log_poles, (2 * space.C * B).to(log_poles.dtype)


def discretise(
    space: StateSpace, disc: Literal["zoh", "bilinear"] | str
) -> tuple[Inexact[Tensor, "features d_state"], Inexact[Tensor, "features d_state"]]:
    """``(log Ad, Bd)`` of a diagonal state space; Bd is also right where A = 0."""
    z = space.dt * space.A
    if disc == "zoh":
        return z, space.B * space.dt * _expm1_over(z)
    ratio = (1 + z / 2) / (1 - z / 2)
    # A real pole beyond -2 / dt becomes negative under the bilinear transform; its logarithm is complex.
    return ratio.to(torch.promote_types(z.dtype, torch.complex64)).log(), space.B * space.dt / (1 - z / 2)


def _expm1(z: Tensor) -> Tensor:
    """``exp(z) - 1`` without cancellation near 0."""
    if not z.is_complex():
        return torch.expm1(z)
    growth = torch.expm1(z.real)
    return torch.complex(
        growth * z.imag.cos() - 2 * (z.imag / 2).sin().square(), (growth + 1) * z.imag.sin()
    )  # fmt: skip


def _expm1_over(z: Tensor) -> Tensor:
    """``(exp(z) - 1) / z``, 1 at z = 0."""
    zero = z == 0
    safe = torch.where(zero, torch.ones_like(z), z)
    return torch.where(zero, torch.ones_like(z), _expm1(safe) / safe)


def _dss_weights(space: StateSpace, length: int) -> Tensor:
    """``B (e^z - 1) / (A (e^(z L) - 1))`` with a regularised reciprocal; growing poles count back from the end."""
    z, A = space.dt * space.A, space.A
    growing = A.real > 0
    inward = torch.where(growing, -z, z)
    x = _expm1(inward * length) * A
    reciprocal = x.conj() / (x * x.conj() + 1e-7)
    shift = torch.where(growing, torch.exp(-z * (length - 1)), torch.ones_like(z))
    return space.B * _expm1(inward) * reciprocal * shift
