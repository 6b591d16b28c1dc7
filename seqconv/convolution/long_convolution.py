"""Long convolution in all its forms, for any filter: what every convolutional mixer is built on.

``y_t = sum_{s>=0} h[s] u_{t-s} + skip u_t``, and where the convolution is bidirectional also
``sum_{s>=0} h'[s] u_{t+s+lag}`` with a second filter, or with the second half of the channels of the same one.
Parallel by FFT; from a state by the filter's own recurrence if it has one (constant state), by exact online
convolution otherwise (growing state).
Replacing ``filter`` by another one (a distilled one, say) changes nothing else.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import fft_conv
from seqconv_kernels._core.operator.sizes import known

from ..filters.base import Filter, Recurrence, add_skip, foreign_state
from ..filters.mixed import MixedFilter
from ..state import State, state_class
from ..types import StateKind
from .fractal import FractalState
from .mixed import MixedState, mixed_state
from .online import OnlineState, extend_online, init_online, known_inputs, online_prefill, online_step
from .smooth import SmoothState

FIRST_TAPS = 256
"""Taps that a state begins with where neither the filter has an end nor the longest context is known."""

Observer = Callable[[Tensor, Tensor], None]
"""Called with the input and the output of a convolution."""


@state_class
class RecurrentState(State):
    """State of a convolution whose filter has a recurrence: the discretised recurrence and its hidden state."""

    recurrence: Recurrence
    hidden: State


class Kernel(NamedTuple):
    """Impulse responses evaluated for one length.

    Attributes:
        past: taps of the past, lag 0 first.
        future: taps of the future, lag ``lag`` first; ``None`` if causal.
        heads: how often the channels of the taps repeat in the signal, head after head.
        observer: called with the input and output of every convolution, (batch, length, channels) each.
    """

    past: Float[Tensor, "channels taps"]
    future: Float[Tensor, "channels taps"] | None
    lag: int
    heads: int
    observer: Observer | None = None


def convolve(
    u: Float[Tensor, "batch length d_model"], kernel: Kernel, *, skip: Float[Tensor, " d_model"] | None = None
) -> Float[Tensor, "batch length d_model"]:
    """Convolve whole sequences with a kernel; inputs at padding must be zero."""
    y = _causal(u, kernel.past, kernel.heads, skip)
    if kernel.future is not None:
        ahead = _causal(u.flip(1), kernel.future, kernel.heads).flip(1)
        y = y + F.pad(ahead, (0, 0, 0, kernel.lag))[:, kernel.lag :]
    if kernel.observer is not None:
        kernel.observer(u, y)
    return y


def _causal(u: Tensor, taps: Tensor, heads: int, skip: Tensor | None = None) -> Tensor:
    if heads == 1:
        return fft_conv(u, taps, skip=skip)
    rows = cast(Tensor, u.unflatten(2, (heads, -1))).transpose(1, 2)
    y = fft_conv(rows.flatten(0, 1), taps).view(rows.shape).transpose(1, 2).flatten(2)
    return y if skip is None else y + (skip * u).to(y.dtype)


class LongConvolution(nn.Module):
    """Depthwise convolution of every channel with a :class:`~seqconv.filters.base.Filter`.

    Args:
        filter: impulse responses of the past; ``stages`` times the channels of one head.
        backward: impulse responses of the future, for a bidirectional convolution.
        backward_lag: lag of the first future tap: 1 (S4, SGConv) or 0 (MEGA, where lag 0 counts twice).
        two_sided: the second half of the filter's channels are the impulse responses of the future.
        stages: convolutions in series that share the filter, each with its own slice of the channels (Hyena).
        heads: groups of channels that share the same impulse responses.
        smooth: decode with bounded work per token instead of the least work in total.

    Attributes:
        observers: one per stage, called with the input and output of whole-sequence convolutions; usually none.
    """

    def __init__(
        self,
        filter: Filter,
        *,
        backward: Filter | None = None,
        backward_lag: int = 1,
        two_sided: bool = False,
        stages: int = 1,
        heads: int = 1,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.filter, self.backward, self.backward_lag = filter, backward, backward_lag
        self.two_sided, self.stages, self.heads, self.smooth = two_sided, stages, heads, smooth
        self.observers: tuple[Observer | None, ...] = (None,) * stages

    @property
    def state_kind(self) -> StateKind:
        """``"none"`` if bidirectional, else ``"constant"`` with a recurrence and ``"growing"`` without."""
        if self.backward is not None or self.two_sided:
            return "none"
        return "constant" if self.filter.recurrent else "growing"

    def change_rate(self, rate: float) -> None:
        """Take samples ``rate`` times as far apart as now.

        Raises:
            ValueError: a filter that is not a function of time.
        """
        self.filter.change_rate(rate)
        if self.backward is not None:
            self.backward.change_rate(rate)

    def kernels(self, length: int) -> list[Kernel]:
        """The impulse responses of every stage for sequences of ``length``, from one evaluation of the filter."""
        past = self._taps(self.filter, length)
        future: tuple[Tensor | None, ...] = (None,) * self.stages
        if self.backward is not None:
            future = self._taps(self.backward, length)
        elif self.two_sided:
            past, future = past[: self.stages], past[self.stages :]
        parts = zip(past, future, self.observers, strict=True)
        return [Kernel(h, g, self.backward_lag, self.heads, observer) for h, g, observer in parts]

    def forward(
        self, u: Float[Tensor, "batch length channels"], *, skip: Float[Tensor, " channels"] | None = None
    ) -> Float[Tensor, "batch length channels"]:
        """Convolve whole sequences in the only stage; inputs at padding must be zero."""
        (kernel,) = self.kernels(u.shape[1])
        return convolve(u, kernel, skip=skip)

    def init_state(self, batch_size: int, max_length: int | None = None) -> State:
        """The state of the only stage before the first input; arguments and errors of :meth:`init_states`."""
        (state,) = self.init_states(batch_size, max_length)
        return state

    def init_states(self, batch_size: int, max_length: int | None = None) -> tuple[State, ...]:
        """The state of every stage before the first input.

        Args:
            batch_size: rows.
            max_length: longest context to come, where known; a state without a recurrence begins with as many taps,
                and with more from the filter when the context becomes longer.
        """
        if not isinstance(self.filter, MixedFilter):
            return tuple(self._initial(form, batch_size) for form in self._forms(self.filter, max_length))
        modal = cast(Recurrence, self.filter.modal.recurrence())
        states: list[State] = []
        for stage, form in enumerate(self._forms(self.filter.exact, max_length)):
            split = self.filter.of_stage(stage, self.stages)
            if split.exact and split.distilled:
                of_distilled = self._initial(_channels(modal, split.rows), batch_size)
                index = torch.tensor(split.exact, device=self.filter.distilled.device)
                of_exact = self._initial(_channels(form, index), batch_size)
                states.append(mixed_state(split, self.heads, of_distilled, of_exact, index.device))
            else:
                whole = form if split.exact else _channels(modal, split.rows)
                states.append(self._initial(whole, batch_size))
        return tuple(states)

    def _forms(self, filter: Filter, max_length: int | None) -> list[Recurrence | Tensor]:
        """Per stage what a filter decodes with: its recurrence, or else its taps."""
        recurrence = filter.recurrence()
        if recurrence is not None:
            if self.stages == 1:
                return [recurrence]
            size = self.filter.channels // self.stages
            return [_channels(recurrence, slice(i * size, (i + 1) * size)) for i in range(self.stages)]
        lengths = [length for length in (filter.max_length, max_length) if length is not None]
        return list(self._taps(filter, min(lengths, default=FIRST_TAPS)))

    def _initial(self, form: Recurrence | Tensor, batch_size: int) -> State:
        if isinstance(form, Tensor):
            extensible = self._extensible(form.shape[1])
            return init_online(form, batch_size, heads=self.heads, smooth=self.smooth, extensible=extensible)
        whole = form if self.heads == 1 else form.map(lambda t: torch.cat([t] * self.heads))
        return RecurrentState(whole, whole.init_state(batch_size))

    def prefill(
        self,
        u: Float[Tensor, "batch length channels"],
        state: State,
        *,
        stage: int = 0,
        skip: Float[Tensor, " channels"] | None = None,
    ) -> tuple[Float[Tensor, "batch length channels"], State]:
        """Any number of inputs from the state of a stage; leading padding must be zero.

        Raises:
            ValueError: a state of another filter: of another kind, width, order or batch size.
        """
        self._check_state("prefill", u, state)
        if isinstance(state, MixedState):
            return state.advance(u, skip, lambda v, s, channels, own: self._prefill_part(v, s, stage, channels, own))
        return self._prefill_part(u, state, stage, None, skip)

    def step(
        self,
        u_t: Float[Tensor, "batch channels"],
        state: State,
        *,
        stage: int = 0,
        skip: Float[Tensor, " channels"] | None = None,
    ) -> tuple[Float[Tensor, "batch channels"], State]:
        """One input from the state of a stage; errors as :meth:`prefill`."""
        if isinstance(state, RecurrentState) and self.filter.recurrent:
            return self._step_part(u_t, state, stage, None, skip)
        self._check_state("step", u_t, state)
        if isinstance(state, MixedState):
            return state.advance(u_t, skip, lambda v, s, channels, own: self._step_part(v, s, stage, channels, own))
        return self._step_part(u_t, state, stage, None, skip)

    def _prefill_part(
        self, u: Tensor, state: State, stage: int, channels: Tensor | None, skip: Tensor | None
    ) -> tuple[Tensor, State]:
        """Inputs of channels that are decoded alike: all of the stage, or ``channels``."""
        if isinstance(state, RecurrentState):
            y, hidden = state.recurrence.prefill(u, state.hidden)
            after: State = RecurrentState(state.recurrence, hidden)
        else:
            y, after = online_prefill(u, self._reaching(cast(OnlineState, state), u.shape[1], stage, channels))
        return (y if skip is None else y + (skip * u).to(y.dtype)), after

    def _step_part(
        self, u_t: Tensor, state: State, stage: int, channels: Tensor | None, skip: Tensor | None
    ) -> tuple[Tensor, State]:
        """One input of channels that are decoded alike."""
        if isinstance(state, RecurrentState):
            y, hidden = state.recurrence.step(u_t, state.hidden, skip=skip)
            return y, RecurrentState(state.recurrence, hidden)
        y, after = online_step(u_t, self._reaching(cast(OnlineState, state), 1, stage, channels))
        return add_skip(y, u_t, skip), after

    def _check_state(self, operation: str, u: Tensor, state: State) -> None:
        """Kind, rows and width; a recurrence checks the order itself."""
        mixed, width = isinstance(self.filter, MixedFilter), u.shape[-1]
        if mixed and isinstance(state, MixedState) and len(state.order) == width:
            width, state = len(state.exact), state.of_exact
        if isinstance(state, RecurrentState) and (mixed or self.filter.recurrent):
            return
        if self.filter.recurrent:
            raise foreign_state(f"LongConvolution.{operation}", state, "RecurrentState, as the filter has one")
        kind, sizes = SmoothState if self.smooth else FractalState, (u.shape[0], width)
        if not isinstance(state, kind) or (state.echo.shape[0], state.head.shape[1]) != sizes:
            wanted = f"{kind.__name__} of {sizes[0]} rows of width {sizes[1]}"
            raise foreign_state(f"LongConvolution.{operation}", state, wanted)

    @property
    def _online_filter(self) -> Filter:
        """The filter whose taps online convolution takes."""
        return self.filter.exact if isinstance(self.filter, MixedFilter) else self.filter

    def _extensible(self, taps: int) -> bool:
        """Whether the filter has taps beyond the first ``taps``."""
        end = self._online_filter.max_length
        return end is None or not known(taps >= end)

    def _reaching(self, state: OnlineState, more: int, stage: int, channels: Tensor | None) -> OnlineState:
        """The state with enough taps for ``more`` inputs: doubled, or as many as needed, until the filter's end."""
        needed, have = known_inputs(state) + more + 1, state.taps.shape[1]
        if state.earlier is None or known(needed <= have) or not self._extensible(have):
            return state
        taps = self._taps(self._online_filter, max(2 * have, needed))[stage]
        taps = taps if channels is None else taps[channels]
        return extend_online(state, taps, extensible=self._extensible(taps.shape[1]))

    def _taps(self, filter: Filter, length: int) -> tuple[Tensor, ...]:
        reach = length if filter.max_length is None else min(length, filter.max_length)
        return filter(reach).chunk(2 * self.stages if self.two_sided else self.stages)  # type: ignore[no-any-return]


def _channels(form: Recurrence | Tensor, index: Any) -> Any:
    """Some channels of taps or of a recurrence; its tensors have the channels first."""
    return form[index] if isinstance(form, Tensor) else form.map(lambda t: t[index])
