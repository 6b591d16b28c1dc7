"""Long convolution in all its forms, for any filter: what every convolutional mixer is built on.

``y_t = sum_{s>=0} h[s] u_{t-s} + skip u_t``, and where the convolution is bidirectional also
``sum_{s>=0} h'[s] u_{t+s+lag}`` with a second filter. Parallel by FFT; from a state by the filter's own
recurrence if it has one (constant state), by exact online convolution otherwise (growing state).
Replacing ``filter`` by another one (a distilled one, say) changes nothing else.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import fft_conv
from seqconv_kernels.errors import refusal

from .filters.base import Filter, Recurrence
from .state import State, state_class
from .streaming import OnlineState, init_online, online_prefill, online_step
from .types import StateKind


@state_class
class RecurrentState(State):
    """State of a convolution whose filter has a recurrence: the discretised recurrence and its hidden state."""

    recurrence: Recurrence
    hidden: State


class LongConvolution(nn.Module):
    """Depthwise convolution of every channel with a :class:`~seqconv.filters.base.Filter`.

    Args:
        filter: impulse responses of the past.
        backward: impulse responses of the future, for a bidirectional convolution.
        backward_lag: lag of the first future tap: 1 (S4, SGConv) or 0 (MEGA, where lag 0 counts twice).
    """

    def __init__(self, filter: Filter, *, backward: Filter | None = None, backward_lag: int = 1) -> None:
        super().__init__()
        self.filter, self.backward, self.backward_lag = filter, backward, backward_lag

    @property
    def state_kind(self) -> StateKind:
        """``"none"`` if bidirectional, else ``"constant"`` with a recurrence and ``"growing"`` without."""
        if self.backward is not None:
            return "none"
        return "constant" if self.filter.recurrent else "growing"

    def forward(
        self, u: Float[Tensor, "batch length channels"], *, skip: Float[Tensor, " channels"] | None = None
    ) -> Float[Tensor, "batch length channels"]:
        """Convolve whole sequences; inputs at padding must be zero."""
        length = u.shape[1]
        y = fft_conv(u, self.filter(length), skip=skip)
        if self.backward is None:
            return y
        future = fft_conv(u.flip(1), self.backward(length)).flip(1)
        lag = self.backward_lag
        return y + torch.cat([future[:, lag:], torch.zeros_like(future[:, :lag])], dim=1)

    def init_state(self, batch_size: int, max_length: int | None = None) -> State:
        """The state before the first input.

        Args:
            max_length: longest context to come; needed by a filter with neither recurrence nor end.

        Raises:
            ValueError: the filter has no end of its own and ``max_length`` is not given.
        """
        recurrence = self.filter.recurrence()
        if recurrence is not None:
            return RecurrentState(recurrence, recurrence.init_state(batch_size))
        taps = [length for length in (self.filter.max_length, max_length) if length is not None]
        if not taps:
            remedy = "pass max_length to init_state"
            raise refusal("LongConvolution.init_state", "an endless filter", "a longest context", remedy)
        return init_online(self.filter(min(taps)), batch_size)

    def prefill(
        self, u: Float[Tensor, "batch length channels"], state: State, *, skip: Float[Tensor, " channels"] | None = None
    ) -> tuple[Float[Tensor, "batch length channels"], State]:
        """Any number of inputs from ``state``; leading padding must be zero."""
        if isinstance(state, RecurrentState):
            y, hidden = state.recurrence.prefill(u, state.hidden)
            after: State = RecurrentState(state.recurrence, hidden)
        else:
            y, after = online_prefill(u, cast(OnlineState, state))
        return (y if skip is None else y + skip * u), after

    def step(
        self, u_t: Float[Tensor, "batch channels"], state: State, *, skip: Float[Tensor, " channels"] | None = None
    ) -> tuple[Float[Tensor, "batch channels"], State]:
        """One input from ``state``."""
        if isinstance(state, RecurrentState):
            y, hidden = state.recurrence.step(u_t, state.hidden)
            after: State = RecurrentState(state.recurrence, hidden)
        else:
            y, after = online_step(u_t, cast(OnlineState, state))
        return (y if skip is None else y + skip * u_t), after
