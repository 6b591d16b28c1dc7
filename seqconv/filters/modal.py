"""Modal filter: exact first taps, then a sum of damped oscillations; what distillation puts in a filter's place.

``h[t] = head[t]`` for ``t < F`` and ``h[t] = Re(sum_n residues_n poles_n^(t-F))`` from there on, with every
``|poles_n| < 1``. One pole stands for a conjugate pair when its imaginary part is not zero; its residue then
carries the factor 2. Source: Massaroli et al. 2023, arXiv 2310.18780 (modal form; the head is ours).
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from seqconv_kernels.errors import refusal

from .base import Filter
from .diagonal import DiagonalSSM


class ModalFilter(Filter):
    """A filter with a constant-size recurrence.

    Args:
        poles: stable poles; a channel with fewer modes than others is padded with zero residues.
        residues: same shape.
        head: the first F taps; F may be 0.

    Raises:
        ValueError: a pole on or outside the unit circle, also after rounding to the default dtype; shapes.
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
            raise refusal("ModalFilter", got, "equal channels, and as many residues as poles", "pass them together")
        poles, residues = poles.resolve_conj(), residues.resolve_conj()
        if bool((poles.abs() >= 1).any()):
            got = f"a pole of magnitude {poles.abs().max().item():.8g}"
            raise refusal("ModalFilter", got, "magnitudes below 1", "reflect or clamp the poles first")
        self.poles = nn.Parameter(torch.view_as_real(poles).clone())
        self.residues = nn.Parameter(torch.view_as_real(residues).clone())
        self.head = nn.Parameter(head.clone())

    def forward(self, length: int) -> Float[Tensor, "channels length"]:
        return self.recurrence().impulse_response(length)

    def recurrence(self) -> DiagonalSSM:
        return self._in(torch.promote_types(self.poles.dtype, torch.float32))

    def in_float64(self) -> DiagonalSSM:
        """The recurrence that is computed with, in float64: rounded as the stored parameters are, and no more."""
        ssm = self.recurrence()
        head = None if ssm.head is None else ssm.head.detach().double()
        return DiagonalSSM(ssm.poles.detach().to(torch.complex128), ssm.residues.detach().to(torch.complex128), head)

    def _in(self, dtype: torch.dtype) -> DiagonalSSM:
        poles, residues = (torch.view_as_complex(p.to(dtype)) for p in (self.poles, self.residues))
        return DiagonalSSM(_inside(poles), residues, self.head.to(dtype) if self.head.shape[1] else None)


def _inside(poles: Tensor) -> Tensor:
    """Poles that rounding moved onto or across the unit circle, moved back just inside."""
    largest = 1 - 2 * torch.finfo(poles.real.dtype).eps
    magnitude = poles.abs()
    return torch.where(magnitude > largest, poles * (largest / magnitude.clamp_min(largest)), poles)
