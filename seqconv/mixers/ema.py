"""The moving average of MEGA by itself: ``y = silu(h * x + ω ⊙ x)``, h of :class:`~seqconv.filters.ema.EMAFilter`.

Bidirectional: ``y = silu(h * x + flip(h' * flip(x)) + ω ⊙ x)``; both directions hear lag 0.

Source: Ma et al. 2022 (arXiv 2209.10655), MultiHeadEMA of facebookresearch/mega.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..convolution.long_convolution import LongConvolution
from ..filters.ema import EMAFilter
from ..mixer import Mixer
from ..registry import register
from ..state import State
from ..types import StateKind


@register("ema", examples=({"d_state": 4, "bidirectional": True}, {"d_state": 3, "truncation": 11}))
class EMA(Mixer):
    """Damped multi-dimensional exponential moving average, a skip and SiLU.

    Args:
        d_model: width of inputs and outputs.
        d_state: exponentials per channel.
        bidirectional: hear the future too, through averages of its own.
        truncation, untruncated_steps: as in :class:`~seqconv.filters.ema.EMAFilter`.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        bidirectional: bool = False,
        truncation: int | None = None,
        untruncated_steps: bool = False,
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)

        def build_filter() -> EMAFilter:
            return EMAFilter(d_model, d_state=d_state, truncation=truncation, untruncated_steps=untruncated_steps)

        backward = build_filter() if bidirectional else None
        self.convolution = LongConvolution(build_filter(), backward=backward, backward_lag=0)
        self.skip = nn.Parameter(torch.randn(d_model))

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
