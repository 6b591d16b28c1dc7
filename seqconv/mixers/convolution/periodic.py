"""Periodic convolution: a short depthwise convolution whose taps depend on the token's place in a period.

Equation, with P filters: ``y_t = b_{t mod P} + sum_{s<K} w_{t mod P, s} ⊙ x_{t-s}``. In the Decision ConvFormer the
tokens are returns, states and actions in turn (P = 3), or returns and states (P = 2); every filter sees all earlier
tokens.

Source: Kim et al. 2024, "Decision ConvFormer" (arXiv 2310.03022); gym/models/decision_convformer.py of
beanie00/Decision-ConvFormer (commit 3db9b9ec), which evaluates all filters at every token.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...mixer import Mixer
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import StateKind


@state_class
class PeriodicState(State):
    """The last inputs, oldest first, and the tokens so far of every row."""

    past: Float[Tensor, "batch reach d_model"]
    position: Int[Tensor, " batch"]


@register("periodic_conv", examples=({"period": 2, "width": 4}, {"period": 5, "width": 3, "bias": False}))
class PeriodicConv(Mixer):
    """Depthwise convolution with filters that take turns.

    Args:
        d_model: width of inputs and outputs.
        period: number of filters P.
        width: taps K of each.
        bias: whether each has one.

    Raises:
        ValueError: sizes below 1.
    """

    def __init__(self, d_model: int, *, period: int = 3, width: int = 6, bias: bool = True) -> None:
        super().__init__(d_model)
        if min(period, width) < 1:
            got = f"period={period}, width={width}"
            raise argument_error("periodic_conv mixer", got, "sizes of at least 1", "correct the sizes")
        self.period, self.width = period, width
        self.weight = nn.Parameter(torch.empty(period, width, d_model))
        self.bias = nn.Parameter(torch.empty(period, d_model)) if bias else None
        if bias:
            set_optimizer_options(self, "bias", weight_decay=0.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As those of a depthwise Conv1d."""
        bound = self.width**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def state_kind(self) -> StateKind:
        """A window of inputs."""
        return "window"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._convolve(F.pad(x, (0, 0, self.width - 1, 0)), self._places(x, mask))

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        past = torch.zeros(batch_size, self.width - 1, self.d_model, device=device, dtype=dtype)
        return PeriodicState(past, torch.zeros(batch_size, device=device, dtype=torch.int64))

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, PeriodicState)
        extended = torch.cat([state.past.to(x.dtype), x], dim=1)
        y = self._convolve(extended, state.position[:, None] + self._places(x, mask))
        tokens = x.shape[1] if mask is None else mask.sum(1)
        return y, PeriodicState(extended[:, x.shape[1] :], state.position + tokens)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after

    def _places(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens before each one in its row, (batch or 1, length); the first real token of a row has none."""
        if mask is None:
            return torch.arange(x.shape[1], device=x.device)[None]
        return mask.cumsum(1).sub(1).clamp_min(0)

    def _convolve(self, extended: Tensor, places: Tensor) -> Tensor:
        """The outputs for all but the first ``width - 1`` inputs, which the taps alone reach."""
        length, turns = extended.shape[1] - self.width + 1, places % self.period
        taps = self.weight[turns]
        lags = [extended[:, self.width - 1 - s : self.width - 1 - s + length] for s in range(self.width)]
        y = sum((taps[..., s, :] * u for s, u in enumerate(lags[1:], 1)), taps[..., 0, :] * lags[0])
        return y if self.bias is None else y + self.bias[turns]
