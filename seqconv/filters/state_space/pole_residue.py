"""Sum of damped oscillations whose poles and residues are themselves the parameters.

``h[t] = Re(sum_n residues_n poles_n^t)`` for t >= 0, without a factor 2: a pole is a single one, not a conjugate pair.
Nothing holds the poles inside the unit circle. Channels that lie next to one another may share one system.
Source: ``ParallelHyenaFilter`` in stripedhyena/model.py of togethercomputer/stripedhyena (commit 7e13f618); the poles
start as in Orvieto et al. 2023 (arXiv 2303.06349), on a ring, where a signal of unit variance gives every mode the same
share of an output of unit variance.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.complex import as_complex
from seqconv_kernels._core.errors import argument_error

from ...parameters import set_optimizer_options, wide_default_dtype
from ..base import WideFilter
from .diagonal import DiagonalSSM, modal_response


class PoleResidueFilter(WideFilter):
    """Impulse responses with a constant-size recurrence.

    Args:
        channels: number of impulse responses.
        d_state: poles of each system.
        n_ssm: systems of poles and residues, each for ``channels/n_ssm`` channels; one per channel if ``None``.
        r_min, r_max: magnitudes of the first poles.

    Raises:
        ValueError: ``d_state < 1``, systems that do not divide the channels, no ``0 <= r_min < r_max < 1``.
    """

    def __init__(
        self, channels: int, *, d_state: int = 8, n_ssm: int | None = None, r_min: float = 0.8, r_max: float = 0.999
    ) -> None:
        super().__init__(channels, recurrent=True)
        systems = channels if n_ssm is None else n_ssm
        if d_state < 1 or systems < 1 or channels % systems:
            wanted = f"at least one pole, and a divisor of {channels}"
            got = f"d_state={d_state}, n_ssm={n_ssm}"
            raise argument_error("PoleResidueFilter", got, wanted, "correct the sizes")
        if not 0 <= r_min < r_max < 1:
            got = f"r_min={r_min}, r_max={r_max}"
            raise argument_error(
                "PoleResidueFilter", got, "0 <= r_min < r_max < 1", "order the radii inside the unit circle"
            )
        self.r_min, self.r_max = r_min, r_max
        self.poles, self.residues = (
            nn.Parameter(torch.empty(systems, d_state, 2, dtype=wide_default_dtype())) for _ in range(2)
        )
        set_optimizer_options(self, "poles", "residues", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Poles uniform over the ring, residues normal with the variance that gives an output of unit variance."""
        radius = torch.empty_like(self.poles[..., 0]).uniform_(self.r_min**2, self.r_max**2).sqrt()
        angle = torch.empty_like(radius).uniform_(0, 2 * math.pi)
        self.poles.copy_(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1))
        self.residues.normal_().mul_(((1 - radius.square()) / self.poles.shape[1]).sqrt()[..., None])

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        return self._spread(modal_response(*self._system(), length))

    def _recurrence(self) -> DiagonalSSM:
        offsets, residues = self._system()
        return DiagonalSSM(self._spread(offsets), self._spread(residues))

    def _system(self) -> tuple[Tensor, Tensor]:
        return as_complex(self.poles) - 1, as_complex(self.residues)

    def _spread(self, of_systems: Tensor) -> Tensor:
        """Repeat the rows of the systems for their channels."""
        return of_systems.repeat_interleave(self.channels // of_systems.shape[0], dim=0)
