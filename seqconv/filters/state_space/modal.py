"""Modal filter: exact first taps, then a sum of damped oscillations; distillation replaces other filters by it.

``h[t] = head[t]`` for ``t < F`` and ``h[t] = Re(sum_n residues_n poles_n^(t-F))`` from there on, with every
``|poles_n| < 1``. One pole stands for a conjugate pair when its imaginary part is not zero; its residue then
carries the factor 2. The parameters hold ``poles - 1`` (see :mod:`~seqconv.filters.state_space.diagonal`).
Source: Massaroli et al. 2023, arXiv 2310.18780 (modal form; the exact first taps are added here).
"""

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error

from ...parameters import set_optimizer_options
from ..base import WideFilter
from .diagonal import DiagonalSSM


class ModalFilter(WideFilter):
    """A filter with a constant-size recurrence.

    Args:
        poles: stable poles; a channel with fewer modes than others is padded with zero residues.
        residues: same shape.
        head: the first F taps; F may be 0.

    Raises:
        ValueError: a pole on or outside the unit circle; shapes that do not match.
    """

    def __init__(
        self,
        poles: Complex[Tensor, "channels modes"],
        residues: Complex[Tensor, "channels modes"],
        head: Float[Tensor, "channels taps"],
    ) -> None:
        super().__init__(poles.shape[0], recurrent=True)
        if residues.shape != poles.shape or head.shape[0] != poles.shape[0]:
            got = f"poles {tuple(poles.shape)}, residues {tuple(residues.shape)}, head {tuple(head.shape)}"
            raise argument_error(
                "ModalFilter", got, "equal channels, and as many residues as poles", "pass them together"
            )
        poles, residues = poles.resolve_conj(), residues.resolve_conj()
        if not poles.is_meta and bool((poles.abs() >= 1).any()):
            got = f"a pole of magnitude {poles.abs().max().item():.8g}"
            raise argument_error("ModalFilter", got, "magnitudes below 1", "reflect or clamp the poles first")
        self.offsets = nn.Parameter(torch.view_as_real(poles - 1).clone())
        self.residues = nn.Parameter(torch.view_as_real(residues).clone())
        self.head = nn.Parameter(head.clone())
        set_optimizer_options(self, "offsets", "residues", "head", weight_decay=0.0)

    def reset_parameters(self) -> None:
        """Make it the zero filter: its values come from a fit or a checkpoint, not from options."""
        for parameter, value in ((self.offsets, -1.0), (self.residues, 0.0), (self.head, 0.0)):
            nn.init.constant_(parameter, value)
        nn.init.zeros_(self.offsets[..., 1])

    def select(self, channels: Int[Tensor, " some"]) -> "ModalFilter":
        """The responses of some channels, bit for bit."""
        none = torch.zeros(len(channels), self.offsets.shape[1], dtype=torch.complex64)
        part = ModalFilter(none, none, torch.zeros(len(channels), self.head.shape[1])).to(self.offsets)
        with torch.no_grad():
            for own, whole in zip(part.parameters(), self.parameters(), strict=True):
                own.copy_(whole[channels])
        return part

    @property
    def poles(self) -> Complex[Tensor, "channels modes"]:
        """The poles as they are computed with."""
        return self._recurrence().poles

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        return self._recurrence().impulse_response(length)

    def _recurrence(self) -> DiagonalSSM:
        offsets, residues = (as_complex(p) for p in (self.offsets, self.residues))
        head = self.head.T.contiguous().T if self.head.shape[1] else None  # steps read it channels together
        return DiagonalSSM(_inside(offsets), residues, head)

    def in_float64(self) -> DiagonalSSM:
        """The recurrence that is computed with, in float64: rounded as the stored parameters are, and no more."""
        ssm = self._recurrence()
        head = None if ssm.head is None else ssm.head.detach().double()
        return DiagonalSSM(ssm.offsets.detach().to(torch.complex128), ssm.residues.detach().to(torch.complex128), head)


def _inside(offsets: Tensor) -> Tensor:
    """Offsets of poles that rounding moved onto or across the unit circle, moved back just inside."""
    largest = 1 - 2 * torch.finfo(offsets.real.dtype).eps
    magnitude = (1 + offsets.to(torch.complex128)).abs()
    share = (largest / magnitude.clamp_min(largest)).to(offsets.real.dtype)
    return torch.where(magnitude > largest, share * offsets + (share - 1), offsets)
