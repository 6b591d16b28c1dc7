"""Sums of real exponentials, the long filters of StripedHyena 2: ``h[t] = sum_n R_n exp(p_n t)``, t >= 0.

Either R and p are the parameters (what inference code stores), or products of ``factors`` parameters each, as in
training::

    R_n = prod_f R_{n,f},      p_n = -dt_n exp(prod_f q_{n,f}),   dt clamped between ``dt_min`` and ``dt_max``

which keeps the poles below 1. The training code takes ``linspace(0, L, L)`` for the times, whose spacing is ``L / (L -
1)`` and not 1; ``l_max`` gives the L whose spacing is meant.

Source: ``ImplicitRealModalFilter`` in savanna/model/operators/hyena/parametrization/implicit_modal.py of
Zymrael/savanna (commit 0d42c604) and ``HyenaCascade`` in vortex/model/model.py of Zymrael/vortex (commit cb229ae5); Ku
et al. 2025 (arXiv 2503.01868).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...parameters import set_optimizer_options, wide_default_dtype
from ..base import WideFilter
from .diagonal import DiagonalSSM, modal_response


class RealModes(WideFilter, ABC):
    """Base of the filters of real exponentials, which has their recurrence."""

    def __init__(self, channels: int, d_state: int) -> None:
        if d_state < 1:
            raise argument_error(type(self).__name__, f"d_state={d_state}", "at least one pole", "raise d_state")
        super().__init__(channels, recurrent=True)

    @abstractmethod
    def modes(self) -> tuple[Float[Tensor, "channels d_state"], Float[Tensor, "channels d_state"]]:
        """Logarithms of the poles, and residues; float32 at least."""

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        ssm = self._recurrence()
        return modal_response(ssm.offsets, ssm.residues, length)

    def _recurrence(self) -> DiagonalSSM:
        log_poles, residues = self.modes()
        return DiagonalSSM(torch.expm1(log_poles), residues)


class RealModalFilter(RealModes):
    """Impulse responses whose poles and residues are the parameters; nothing keeps the poles below 1.

    Args:
        channels: number of impulse responses.
        d_state: poles of each.

    Raises:
        ValueError: ``d_state < 1``.
    """

    def __init__(self, channels: int, *, d_state: int = 16) -> None:
        super().__init__(channels, d_state)
        size, dtype = (channels, d_state), wide_default_dtype()
        self.log_poles, self.residues = (nn.Parameter(torch.empty(size, dtype=dtype)) for _ in range(2))
        set_optimizer_options(self, "log_poles", "residues", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Time constants of 1 to 1,000 tokens, evenly in their logarithm, and residues ~ N(0, 1/d_state)."""
        d_state = self.log_poles.shape[1]
        self.log_poles.copy_(-torch.logspace(0, -3, d_state, dtype=torch.float64).expand_as(self.log_poles))
        self.residues.normal_(std=d_state**-0.5)

    def modes(self) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(self.residues)
        return self.log_poles.to(dtype), self.residues.to(dtype)


class FactoredModalFilter(RealModes):
    """Impulse responses whose poles and residues are products of parameters, for training.

    Args:
        channels: number of impulse responses.
        d_state: poles of each.
        factors: parameters in a product.
        dt_min, dt_max: range of the time steps.
        l_max: L of the training code's times; ``None``: the times are integers.

    Raises:
        ValueError: ``d_state < 1``, no factor, a range that is empty, ``l_max < 2``.
    """

    def __init__(
        self,
        channels: int,
        *,
        d_state: int = 16,
        factors: int = 4,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        l_max: int | None = None,
    ) -> None:
        super().__init__(channels, d_state)
        if factors < 1 or not 0 < dt_min <= dt_max or (l_max is not None and l_max < 2):
            got = f"factors={factors}, dt_min={dt_min}, dt_max={dt_max}, l_max={l_max}"
            wanted = "at least one factor, 0 < dt_min <= dt_max, and two tokens or more"
            raise argument_error("FactoredModalFilter", got, wanted, "correct the numbers")
        self.dt_min, self.dt_max, self.spacing = dt_min, dt_max, 1.0 if l_max is None else l_max / (l_max - 1)
        size, dtype = (channels, d_state), wide_default_dtype()
        self.dt = nn.Parameter(torch.empty(size, dtype=dtype))
        self.R, self.q = (nn.Parameter(torch.empty(*size, factors, dtype=dtype)) for _ in range(2))
        set_optimizer_options(self, "dt", "R", "q", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Dt uniform, factors of R ~ N(0, 1/d_state), factors of the poles ~ N(0, 1), the same for all channels."""
        self.dt.uniform_(self.dt_min, self.dt_max)
        self.R.normal_(std=self.R.shape[1] ** -0.5)
        self.q[0].normal_()
        self.q.copy_(self.q[:1].clone().expand_as(self.q))

    def modes(self) -> tuple[Tensor, Tensor]:
        R, q, dt = (p.to(accumulation_dtype(p)) for p in (self.R, self.q, self.dt))
        dt = dt.clamp(self.dt_min, self.dt_max) * self.spacing
        return -dt * torch.exp(q.prod(-1)), R.prod(-1)
