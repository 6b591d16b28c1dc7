"""A pool of states for requests that come and go: rows by index, -1 where a row of a batch is unused.

``gather`` makes the state of a batch from slots, a prefill or a step continues it, ``scatter`` writes its rows back::

    state = pool.gather(index)              index = [3, 0, -1]
    y, state = module.step(x, state)
    pool.scatter(index, state)

States of one size lie in one tensor per field with a slot per row and one more, the last, that unused rows read:
gathering and scattering then have fixed shapes whatever the indices are. Caches of attention have one size up to a
``capacity``. Other states that grow with the context, or count tokens, are kept slot by slot, and joined for a batch as
far as their forms agree.
"""

from typing import Any, Generic, cast

import torch
from jaxtyping import Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..rows import join
from ..state import State
from .stateful import Stateful, StateT

UNUSED = -1


class StatePool(Generic[StateT]):
    """States of a module, one per slot.

    Filters and other values that all rows share are those of the time when the pool was made: make a new one when
    parameters change.

    Args:
        module: a causal mixer, block or backbone.
        slots: how many states it holds.
        capacity: longest context of a request, up to which caches of attention get a fixed size; ``None``: they grow.
        max_length, device, dtype: as ``Mixer.init_state``.

    Raises:
        ValueError: no slots; a module that is not causal.
    """

    def __init__(self, module: Stateful[StateT], slots: int, *, capacity: int | None = None, **sizes: Any) -> None:
        if slots < 1:
            raise argument_error("StatePool", f"slots={slots}", "at least 1", "give the most requests at a time")
        self.slots = slots
        first = module.init_state(1, **sizes)
        self._initial: StateT = first if capacity is None else first.with_capacity(capacity)
        self._whole: StateT | None = None
        self._rows: list[StateT] = []
        with torch.no_grad():
            if self._initial.has_fixed_shape:
                self._whole = self._initial.repeat_interleave(slots + 1)
            else:
                self._rows = [self._initial] * slots

    def gather(self, index: Int[Tensor, " batch"]) -> StateT:
        """The states of these slots as the state of a batch, in memory of its own; the initial state at -1.

        Raises:
            ValueError: no slot of this number.
        """
        index = self._checked("gather", index)
        if self._whole is not None:
            return self._whole.select(index % (self.slots + 1))
        states: list[State] = [self._initial if slot == UNUSED else self._rows[slot] for slot in index.tolist()]
        if not states:
            return self._initial.select(index)
        return cast(StateT, join(list(torch.arange(len(states), device=index.device).split(1)), states))

    def scatter(self, index: Int[Tensor, " batch"], state: StateT) -> None:
        """Write the rows of a batch's state into these slots; rows at -1 are dropped.

        Raises:
            ValueError: no slot of this number, a slot twice, a state of another number of rows.
        """
        index = self._checked("scatter", index, once=True)
        if state.batch_size != len(index):
            got = f"a state of {state.batch_size} rows for {len(index)} slots"
            raise argument_error("StatePool.scatter", got, "a slot per row", "pass -1 for rows that are not kept")
        if self._whole is not None:
            self._write(index % (self.slots + 1), state)
            return
        for row, slot in enumerate(index.tolist()):
            if slot != UNUSED:
                self._rows[slot] = state.select(torch.tensor([row], device=index.device)).detach()

    def reset(self, index: Int[Tensor, " batch"]) -> None:
        """Put the initial state into these slots."""
        self.scatter(index, self._initial.repeat_interleave(len(index)))

    @torch.no_grad()
    def _write(self, index: Tensor, state: State) -> None:
        """Into the tensors of all slots, in place; the last row stays initial, whatever was written into it."""
        assert self._whole is not None
        for pool, new, first in zip(_batched(self._whole), _batched(state), _batched(self._initial), strict=True):
            pool.index_copy_(0, index.to(pool.device), new.to(pool.dtype))
            pool[self.slots :].copy_(first)

    def _checked(self, operation: str, index: Tensor, *, once: bool = False) -> Tensor:
        if index.device.type != "cpu" or torch.compiler.is_compiling():  # reading them would wait for the device
            return index
        used = index[index != UNUSED]
        if len(used) and not 0 <= int(used.min()) <= int(used.max()) < self.slots:
            wanted, remedy = f"slots 0 to {self.slots - 1}, or -1", "make a pool with more slots"
            raise argument_error(f"StatePool.{operation}", f"slots {index.tolist()}", wanted, remedy)
        if once and len(used.unique()) < len(used):
            wanted, remedy = "every slot once", "pass -1 for rows that are not kept"
            raise argument_error(f"StatePool.{operation}", f"slots {index.tolist()}", wanted, remedy)
        return index


def _batched(state: State) -> list[Tensor]:
    return [leaf.tensor for leaf in state._leaves() if leaf.batched]
