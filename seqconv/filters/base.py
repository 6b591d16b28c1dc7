"""What a filter is: an impulse response per channel and, where there is one, an exact recurrence for it."""

from abc import ABC, abstractmethod
from itertools import chain
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..parameters import KeepFloat32
from ..state import State


class Recurrence(State, ABC):
    """A linear time-invariant recurrence with the impulse response of a filter.

    It is made from the parameters by :meth:`Filter.recurrence` and holds the discretised quantities as
    tensors without a batch axis; being a state itself, it travels inside the state of the caller,
    so that nothing is discretised again at every token.
    """

    @abstractmethod
    def init_state(self, batch_size: int) -> State:
        """The zero state; float32 at least, on the device of the recurrence."""

    @abstractmethod
    def prefill(
        self, u: Float[Tensor, "batch length channels"], state: State
    ) -> tuple[Float[Tensor, "batch length channels"], State]:
        """Outputs for ``u`` continuing from ``state``, and the state after it, computed in parallel over the length.

        Raises:
            ValueError: a state of another recurrence.
        """

    @abstractmethod
    def step(
        self, u_t: Float[Tensor, "batch channels"], state: State, *, skip: Float[Tensor, " channels"] | None = None
    ) -> tuple[Float[Tensor, "batch channels"], State]:
        """One token, ``skip`` added to the tap of lag 0; errors as :meth:`prefill`."""


def add_skip(
    y: Float[Tensor, "batch channels"], u: Float[Tensor, "batch channels"], skip: Float[Tensor, " channels"] | None
) -> Float[Tensor, "batch channels"]:
    """``y + skip u`` in the dtype of ``y``."""
    if skip is None:
        return y
    return torch.addcmul(y, skip, u) if skip.dtype == u.dtype == y.dtype else y + (skip * u).to(y.dtype)


def foreign_state(operation: str, state: object, wanted: str) -> ValueError:
    """The error for a state that was made by another filter, or for other inputs."""
    sizes = f" of {state.batch_size} rows with sizes {state.sizes()}" if isinstance(state, State) else ""
    remedy = "pass what init_state, prefill or step of the same filter returned"
    return argument_error(operation, f"{type(state).__name__}{sizes}", wanted, remedy)


class Filter(nn.Module, ABC):
    """A causal impulse response for each of ``channels`` channels.

    Attributes:
        channels: number of impulse responses.
        max_length: taps the parametrisation defines; every tap from there on is zero. ``None``: no end.
        recurrent: whether :meth:`recurrence` gives a recurrence.
    """

    channels: int
    max_length: int | None
    recurrent: bool

    def __init__(self, channels: int, *, max_length: int | None = None, recurrent: bool = False) -> None:
        super().__init__()
        self.channels, self.max_length, self.recurrent = channels, max_length, recurrent

    @abstractmethod
    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        """The first ``length`` taps, lag 0 first, differentiable in the parameters; float32 at least."""

    @abstractmethod
    def _recurrence(self) -> Recurrence | None:
        """An exact recurrence for the same impulse response, or ``None`` if not ``recurrent``."""

    def change_rate(self, rate: float) -> None:
        """Take samples ``rate`` times as far apart as now: the taps of a filter that is a function of time.

        Raises:
            ValueError: the taps are not samples of a function of time.
        """
        wanted, remedy = "a filter that is a function of time", "resample the inputs instead"
        raise argument_error(f"{type(self).__name__}.change_rate", f"rate={rate}", wanted, remedy)

    @final  # type: ignore[misc]  # nn.Module types forward as a writable attribute
    def forward(self, length: int | None = None) -> Any:
        """The first ``length`` taps, ``(channels, length)``, lag 0 first; without a length the recurrence.

        Both read parameters, so both are reached through ``nn.Module.__call__``, where hooks load or gather them.
        Neither is narrowed by autocast: rounded taps are another filter, and complex numbers have no such type.
        """
        tensors = chain(self.parameters(), self.buffers())
        device = next((t.device.type for t in tensors if not t.is_meta), "cpu")  # offloaded ones are still to come
        if not torch.is_autocast_enabled(device):
            return self._evaluate(length)
        with torch.autocast(device, enabled=False):
            return self._evaluate(length)

    def _evaluate(self, length: int | None) -> Tensor | Recurrence | None:
        return self._recurrence() if length is None else self._taps(length)

    @final
    def recurrence(self) -> Any:
        """An exact recurrence for the same impulse response, or ``None`` if not ``recurrent``."""
        return self()


class WideFilter(KeepFloat32, Filter, ABC):
    """A :class:`KeepFloat32` filter."""
