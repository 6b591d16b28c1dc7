"""Damped multi-dimensional exponential moving average, the filter of MEGA (Ma et al. 2022, arXiv 2209.10655).

With ``p = σ(δ)`` and ``q = 1 - p σ(α)`` for each of n dimensions of a channel,
``s_t = q ⊙ s_{t-1} + p ⊙ β x_t`` and ``y_t = √(1/n) sum_n γ_n s_{t,n}``, so that
``h[t] = √(1/n) sum_n γ_n p_n β_n q_n^t`` from lag 0 on. ``log q = log1p(-p σ(α))`` keeps slow decays exact.
"""

from typing import Annotated, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import vandermonde
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import Default, with_defaults
from ...parameters import set_optimizer_options, wide_default_dtype
from ..base import Recurrence, WideFilter
from .diagonal import DiagonalSSM


class EMAFilterOptions(TypedDict, total=False):
    """Options of :class:`EMAFilter`.

    Attributes:
        d_state: exponentials per channel, n.
        truncation: taps that are kept; the rest is zero. ``None``: all.
        untruncated_steps: give the recurrence of the whole response in spite of a truncation, as the original
            does: steps then differ from the parallel form beyond the truncation.
    """

    d_state: Annotated[int, Default(16)]
    truncation: Annotated[int | None, Default(None)]
    untruncated_steps: Annotated[bool, Default(False)]


class EMAFilter(WideFilter):
    """Sum of n damped exponentials per channel.

    Args:
        channels: number of impulse responses.
        **options: see :class:`EMAFilterOptions`.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, channels: int, **options: Unpack[EMAFilterOptions]) -> None:
        o = with_defaults(EMAFilterOptions, options, "EMAFilter")
        d_state, truncation = o["d_state"], o["truncation"]
        if channels < 1 or d_state < 1 or (truncation is not None and truncation < 1):
            got = f"channels={channels}, d_state={d_state}, truncation={truncation}"
            raise argument_error("EMAFilter", got, "sizes of at least 1 (or truncation=None)", "correct the sizes")
        super().__init__(channels, max_length=truncation, recurrent=truncation is None or o["untruncated_steps"])
        size, dtype = (channels, d_state), wide_default_dtype()
        self.delta, self.alpha = (nn.Parameter(torch.empty(size, dtype=dtype)) for _ in range(2))
        self.beta, self.gamma = (nn.Parameter(torch.empty(size, dtype=dtype)) for _ in range(2))
        set_optimizer_options(self, "delta", "alpha", "beta", "gamma", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """δ, α ~ N(0, 0.2²), β = ±1 in turn + N(0, 0.02²), γ ~ N(0, 1), as in the original."""
        self.delta.normal_(std=0.2)
        self.alpha.normal_(std=0.2)
        sign = 1.0 - 2.0 * (torch.arange(self.beta.shape[1], device=self.beta.device) % 2)
        self.beta.normal_(std=0.02).add_(sign)
        self.gamma.normal_()

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        log_poles, residues = self._modes()
        return vandermonde(residues[None], log_poles, length)[0]

    def _recurrence(self) -> Recurrence | None:
        if not self.recurrent:
            return None
        log_poles, residues = self._modes()
        return DiagonalSSM(torch.expm1(log_poles), residues)

    def entry(self) -> Float[Tensor, "channels d_state"]:
        """``p ⊙ β``, by which the original multiplies what enters its state (here it is part of the residues)."""
        dtype = accumulation_dtype(self.delta)
        return torch.sigmoid(self.delta.to(dtype)) * self.beta

    def _modes(self) -> tuple[Tensor, Tensor]:
        dtype = accumulation_dtype(self.delta)
        p, damping = torch.sigmoid(self.delta.to(dtype)), torch.sigmoid(self.alpha.to(dtype))
        return torch.log1p(-p * damping), self.gamma * self.entry() * self.gamma.shape[1] ** -0.5
