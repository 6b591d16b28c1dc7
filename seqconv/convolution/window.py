"""Convolution with few taps: the state is the last inputs, as many as the taps reach back.

``y_t = sum_{s<K} h[s] u_{t-s} + skip u_t`` per channel, with K = ``width`` taps of a
:class:`~seqconv.filters.base.Filter`. Against :class:`~seqconv.convolution.long_convolution.LongConvolution`, whose
work per token grows with the logarithm of the taps, a step costs K products, and the state K inputs.
"""

from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import causal_conv1d, causal_conv1d_step, fft_conv
from seqconv_kernels._core.errors import argument_error

from ..filters.base import Filter, add_skip, foreign_state
from ..state import State, state_class
from ..types import StateKind

DIRECT = 16
"""Up to this many taps whole sequences are convolved directly, longer ones by the FFT."""


@state_class
class WindowState(State):
    """The taps, evaluated once per generation, and the last inputs.

    Attributes:
        taps: oldest first.
        past: oldest first.
    """

    taps: Float[Tensor, "channels width"]
    past: Float[Tensor, "batch width-1 channels"]

    batch_free: ClassVar[frozenset[str]] = frozenset({"taps"})


class WindowConvolution(nn.Module):
    """Depthwise causal convolution with the first ``width`` taps of a filter.

    Args:
        filter: impulse responses.
        width: how many taps are kept; all of the filter by default.

    Raises:
        ValueError: no width, neither given nor that of the filter.
    """

    def __init__(self, filter: Filter, width: int | None = None) -> None:
        super().__init__()
        reach = filter.max_length if width is None else width
        if reach is None or reach < 1:
            got = f"width={width} and a filter with max_length={filter.max_length}"
            raise argument_error("WindowConvolution", got, "a number of taps", "pass width")
        self.filter, self.width = filter, reach

    @property
    def state_kind(self) -> StateKind:
        """``"window"``."""
        return "window"

    def forward(
        self, u: Float[Tensor, "batch length channels"], *, skip: Float[Tensor, " channels"] | None = None
    ) -> Float[Tensor, "batch length channels"]:
        """Convolve whole sequences; inputs at padding must be zero."""
        return self._convolve(u, self.filter(self.width), None, skip)

    def init_state(self, batch_size: int, max_length: int | None = None) -> WindowState:
        """Zero inputs before the first one; the longest context changes nothing."""
        taps = cast(Tensor, self.filter(self.width)).flip(-1)
        return WindowState(taps, taps.new_zeros(batch_size, self.width - 1, len(taps)))

    def prefill(
        self,
        u: Float[Tensor, "batch length channels"],
        state: State,
        *,
        skip: Float[Tensor, " channels"] | None = None,
    ) -> tuple[Float[Tensor, "batch length channels"], WindowState]:
        """Any number of inputs after those of ``state``; leading padding must be zero.

        Raises:
            ValueError: a state of another convolution.
        """
        state = self._own("prefill", state, u)
        y = self._convolve(u, state.taps.flip(-1), state.past, skip)
        past = torch.cat([state.past, u.to(state.past.dtype)], dim=1)[:, u.shape[1] :]
        return y, WindowState(state.taps, past)

    def step(
        self, u_t: Float[Tensor, "batch channels"], state: State, *, skip: Float[Tensor, " channels"] | None = None
    ) -> tuple[Float[Tensor, "batch channels"], WindowState]:
        """One input after those of ``state``; errors as :meth:`prefill`."""
        state = self._own("step", state, u_t)
        y, past = causal_conv1d_step(u_t, state.taps, state=state.past)
        return add_skip(y, u_t, skip), WindowState(state.taps, past)

    def _own(self, operation: str, state: State, u: Tensor) -> WindowState:
        sizes = (u.shape[0], self.width - 1, u.shape[-1])
        if not isinstance(state, WindowState) or state.past.shape != sizes:
            wanted = f"WindowState of {sizes[0]} rows, {sizes[1]} inputs and {sizes[2]} channels"
            raise foreign_state(f"WindowConvolution.{operation}", state, wanted)
        return state

    def _convolve(self, u: Tensor, taps: Tensor, past: Tensor | None, skip: Tensor | None) -> Tensor:
        if self.width > DIRECT:
            return fft_conv(u, taps, skip=skip, history=None if past is None else past.to(u.dtype))
        y = cast(Tensor, causal_conv1d(u, taps.flip(-1), initial_state=past))
        return y if skip is None else y + (skip * u).to(y.dtype)
