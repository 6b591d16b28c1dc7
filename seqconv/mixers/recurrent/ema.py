"""The moving average of MEGA alone: ``y = silu(h * x + ω ⊙ x)``, h of :class:`EMAFilter`.

Bidirectional: ``y = silu(h * x + flip(h' * flip(x)) + ω ⊙ x)``; both directions include lag 0.

Source: Ma et al. 2022 (arXiv 2209.10655), MultiHeadEMA of facebookresearch/mega.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...convolution.long_convolution import LongConvolution
from ...filters.state_space.ema import EMAFilter, EMAFilterOptions
from ...mixer import Mixer
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State
from ...types import StateKind


@register("ema", examples=({"d_state": 4, "bidirectional": True}, {"d_state": 3, "truncation": 11}))
class EMA(Mixer):
    """Damped multi-dimensional exponential moving average, a skip and SiLU.

    Args:
        d_model: width of inputs and outputs.
        bidirectional: also average over the future, with parameters of its own.
        d_state, truncation, untruncated_steps: see :class:`~seqconv.filters.state_space.ema.EMAFilterOptions`.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, d_model: int, *, bidirectional: bool = False, **options: Unpack[EMAFilterOptions]) -> None:
        super().__init__(d_model, causal=not bidirectional)
        filter = EMAFilter(d_model, **options)
        backward = EMAFilter(d_model, **options) if bidirectional else None
        self.convolution = LongConvolution(filter, backward=backward, backward_lag=0)
        self.skip = nn.Parameter(torch.empty(d_model))
        set_optimizer_options(self, "skip", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """ω ~ N(0, 1)."""
        self.skip.normal_()

    @property
    def state_kind(self) -> StateKind:
        """That of the convolution: constant, unless the average is truncated."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return F.silu(self.convolution(x, skip=self.skip))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.convolution.init_state(batch_size, max_length)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, state = self.convolution.prefill(x, state, skip=self.skip)
        return F.silu(y), state

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.convolution.step(x_t, state, skip=self.skip)
        return F.silu(y), state
