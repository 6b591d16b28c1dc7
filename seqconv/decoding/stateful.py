"""Modules with a state: mixers, blocks and backbones read tokens from a state to a state.

A state inside a sequence is that after a shorter one: ``prefill(x, states_at=(t,))`` cuts the sequence at ``t``, reads
both parts one after the other, and copies the state in between. It needs nothing of the module but its prefill, so it
is exact for every state, growing ones included.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, final, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..inputs import check_shape
from ..state import InitialState, State, call_with_state

StateT = TypeVar("StateT", bound=State)


class Stateful(nn.Module, Generic[StateT]):
    """Base of modules that map tokens and a state to outputs and a state.

    ``forward(x, state, mask=mask)`` returns ``(y, state)``; ``prefill`` and ``step`` are its names by the rank of
    ``x``, and go through ``nn.Module.__call__``.

    Attributes:
        d_model: width of inputs and outputs.
    """

    d_model: int

    @abstractmethod
    def init_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> StateT:
        """The state before the first token."""

    @overload
    def prefill(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None, states_at: None = None
    ) -> tuple[Tensor, StateT]: ...

    @overload
    def prefill(
        self, x: Tensor, state: State | None = None, *, mask: Tensor | None = None, states_at: Sequence[int]
    ) -> tuple[Tensor, StateT, tuple[StateT, ...]]: ...

    @final
    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: State | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
        states_at: Sequence[int] | None = None,
    ) -> Any:
        """Read any number of tokens from ``state``, or from the initial one.

        The same as ``module(x, state, mask=mask)``, with its arguments and errors.

        Args:
            states_at: positions t, in any order: also return the states after the first t tokens of ``x``, as copies
                that share no memory. Every position between 0 and the length cuts the call in two.

        Returns:
            Outputs (batch, length, d_model) and the state after them, followed by a tuple of the states at
            ``states_at`` where that is given.

        Raises:
            ValueError: also for positions outside 0 to the length.
        """
        check_shape(self._op("prefill"), x, 3, self.d_model)
        if states_at is None:
            return call_with_state(self, x, state, mask=mask)
        _check_positions(self._op("prefill"), states_at, x.shape[1])
        return self._prefill_between(x, state, mask, states_at)

    @final
    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], StateT]:
        """Read one token from ``state``, or from the initial one; return the output and the state after.

        The same as ``module(x_t, state)``, with its errors.
        """
        if x_t.dim() != 2 or x_t.shape[1] != self.d_model:
            check_shape(self._op("step"), x_t, 2, self.d_model)
        outputs: tuple[Tensor, StateT] = call_with_state(self, x_t, state)
        return outputs

    def _prefill_between(
        self, x: Tensor, state: State | None, mask: Tensor | None, positions: Sequence[int]
    ) -> tuple[Tensor, State, tuple[State, ...]]:
        """Outputs, the last state and those at ``positions``: one prefill between each two of them."""
        length = x.shape[1]
        now: State = InitialState() if state is None else state
        outputs, kept, start = [], {}, 0
        for stop in sorted({*positions, length}):
            if stop > start:
                part = None if mask is None else mask[:, start:stop]
                y, now = call_with_state(self, x[:, start:stop], now, mask=part)
                outputs.append(y)
            if stop in positions:
                first = isinstance(now, InitialState)
                kept[stop] = self.init_state(x.shape[0], device=x.device, dtype=x.dtype) if first else now.clone()
            start = stop
        return torch.cat(outputs, dim=1) if outputs else x, now, tuple(kept[t] for t in positions)

    def _op(self, operation: str) -> str:
        return f"{getattr(self, 'name', type(self).__name__)}.{operation}"


def _check_positions(operation: str, positions: Sequence[int], length: int) -> None:
    wrong = [t for t in positions if not 0 <= t <= length]
    if wrong:
        remedy = "count tokens of this call: 0 is the state before it, its length the state after it"
        raise argument_error(operation, f"states_at with {wrong[:4]}", f"positions from 0 to {length}", remedy)
