"""Rows of a batch that take part in different tokens: a mask for a state whose rows have begun.

In a second turn rows bring different numbers of tokens. A state after padding would have to be that of an earlier
token, so each set of rows with equally many tokens continues by itself, from its rows of the state, without padding::

    rows {0, 2}:  · x x x      →  f(x[0, 2], state[0, 2])      outputs go back to their places,
    row  {1}:     · · · x      →  f(x[1],    state[1])         states of equal form are joined again

States that count tokens (caches of convolutions) cannot be joined: they stay apart, as :class:`RowGroups`, in which
every later call runs set by set.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .state import State, state_class

Shared = dict[str, Tensor]
Run = Callable[[Tensor, State, Shared], tuple[Tensor, State]]
"""Tokens without padding, their state and values shared between layers, to outputs and the state after them."""


@state_class
class RowGroups(State):
    """States of sets of rows that have read different numbers of tokens.

    Attributes:
        rows: places of each set's rows in the batch, (rows of the set,) integers.
        states: state of each set.
    """

    rows: tuple[Tensor, ...]
    states: tuple[State, ...]

    batch_free: ClassVar[frozenset[str]] = frozenset({"rows"})

    def select(self, index: Tensor) -> State:  # type: ignore[override]  # may be of one form again
        """Rows ``index`` of the batch, in that order."""
        rows, states = [], []
        for places, state in zip(self.rows, self.states, strict=True):
            chosen, source = (index.to(places.device)[:, None] == places).nonzero(as_tuple=True)
            if len(chosen):
                rows.append(chosen)
                states.append(state.select(source))
        return join(rows, states) if rows else self.states[0].select(index)

    def repeat_interleave(self, repeats: int) -> State:  # type: ignore[override]
        """Each row ``repeats`` times."""
        return self.select(torch.arange(self.batch_size, device=self.rows[0].device).repeat_interleave(repeats))

    def _batch_sizes(self) -> Iterator[int]:
        yield sum(len(rows) for rows in self.rows)


def join(rows: list[Tensor], states: list[State]) -> State:
    """One state of all rows where the sets' states have the same form and counts, else a :class:`RowGroups`."""
    if len(states) == 1:
        return states[0].select(rows[0].argsort())
    order = torch.cat(rows).argsort()
    try:
        return _joined(states).select(order)
    except _Differs:
        return RowGroups(tuple(rows), tuple(states))


class _Differs(Exception):
    """States that differ in more than their rows."""


def _joined(states: list[State]) -> State:
    first = states[0]
    if any(type(state) is not type(first) for state in states) or isinstance(first, RowGroups):
        raise _Differs
    items = {f.name: _value(first, f.name, [getattr(s, f.name) for s in states]) for f in fields(cast(Any, first))}
    return cast(State, replace(cast(Any, first), **items))


def _value(state: State, name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, tuple):
        if any(len(value) != len(first) for value in values):
            raise _Differs
        return tuple(_value(state, name, list(items)) for items in zip(*values, strict=True))
    if isinstance(first, State):
        return _joined(values)
    if not isinstance(first, Tensor):
        if any(value != first for value in values):
            raise _Differs
        return first
    alike = name not in state.batch_free
    if any(value.shape[alike:] != first.shape[alike:] for value in values):
        raise _Differs
    if alike:
        return torch.cat(values)
    if any(value is not first and not torch.equal(value, first) for value in values):
        raise _Differs
    return first


def begun_rows_wait(mask: Bool[Tensor, "batch length"], not_begun: Bool[Tensor, " batch"] | None) -> bool:
    """Whether a row is padded that may have read tokens before."""
    waits = ~mask.all(1)
    return bool((waits if not_begun is None else waits & ~not_begun).any())


def rows_apart(
    run: Run, x: Float[Tensor, "batch length d_model"], state: State, mask: Bool[Tensor, "batch length"], shared: Shared
) -> tuple[Float[Tensor, "batch length d_model"], State]:
    """Continue every row with its own real tokens, wherever they are; outputs at padding are zero.

    Args:
        run: continues rows that all have the same number of tokens.
        shared: values shared between layers, (batch, length, ...) each; what ``run`` adds to them is added here.
    """
    counts, y, after = mask.sum(1), None, []
    sets = [(counts == count).nonzero()[:, 0] for count in counts.unique()]
    for rows in sets:
        part, tokens = state.select(rows), mask[rows]
        count = int(counts[rows[0]])
        if count:
            own = {name: value[rows][tokens].unflatten(0, (len(rows), count)) for name, value in shared.items()}
            outputs, part = run(x[rows][tokens].unflatten(0, (len(rows), count)), part, own)
            y = _put(y, outputs, rows, tokens, mask)
            for name, value in own.items():
                shared[name] = _put(shared.get(name), value, rows, tokens, mask)
        after.append(part)
    return torch.zeros_like(x) if y is None else y, join(sets, after)


def _put(whole: Tensor | None, part: Tensor, rows: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """``whole`` (zeros at first) with the values of the real tokens of ``rows``."""
    if whole is None:
        whole = part.new_zeros(*mask.shape, *part.shape[2:])
    row, time = tokens.nonzero(as_tuple=True)
    return whole.index_put((rows[row], time), part.flatten(0, 1).to(whole.dtype))


def groups_apart(
    run: Run, x: Float[Tensor, "batch *length d_model"], state: RowGroups, shared: Shared
) -> tuple[Float[Tensor, "batch *length d_model"], State]:
    """Continue rows whose states are apart, set by set, with the same number of tokens each."""
    outputs, after, given = [], [], dict(shared)
    gathered: dict[str, list[Tensor]] = {}
    for rows, part in zip(state.rows, state.states, strict=True):
        own = {name: value[rows] for name, value in given.items()}
        y, part = run(x[rows], part, own)
        outputs.append(y)
        after.append(part)
        for name, value in own.items():
            gathered.setdefault(name, []).append(value)
    order = torch.cat(state.rows).argsort()
    shared.update({name: torch.cat(values)[order] for name, values in gathered.items()})
    return torch.cat(outputs)[order], join(list(state.rows), after)
