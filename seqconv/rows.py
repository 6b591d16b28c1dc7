"""Rows of a batch that take part in different tokens: a mask for a state whose rows have begun.

In a second turn rows have different numbers of new tokens. A state after padding would have to be that of an earlier
token, so each set of rows with equally many tokens continues by itself, from its rows of the state, without padding::

    rows {0, 2}:  · x x x      →  f(x[0, 2], state[0, 2])      outputs go back to their places,
    row  {1}:     · · · x      →  f(x[1],    state[1])         states of equal form are joined again

States that count tokens (caches of convolutions) cannot be joined: they stay apart, as :class:`RowGroups`, in which
every later call runs set by set. Caches of attention can, with padding in front of the shorter ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
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
    """One state of all rows; states of mixers that differ in form or counts stay apart, as a :class:`RowGroups`.

    Args:
        rows: places of each state's rows in the batch.
        states: of one module each, all of one kind.
    """
    if len(states) == 1:
        return states[0].select(rows[0].argsort())
    first = states[0]
    if first.of_modules:
        return _replaced(first, states, lambda values: _join_optional(rows, values))
    rows, states = _flat(rows, states)
    sets: dict[Any, list[int]] = {}
    for i, state in enumerate(states):
        sets.setdefault(_form(state), []).append(i)
    joined = [group for places in sets.values() for group in _joined_set(rows, states, places)]
    if len(joined) == 1:
        return joined[0][1].select(joined[0][0].argsort())
    return RowGroups(tuple(where for where, _ in joined), tuple(state for _, state in joined))


def _join_optional(rows: list[Tensor], values: list[Any]) -> Any:
    return join(rows, values) if isinstance(values[0], State) else values[0]


def _flat(rows: list[Tensor], states: list[State]) -> tuple[list[Tensor], list[State]]:
    """The same with the sets of states that are apart already as states of their own."""
    places: list[Tensor] = []
    parts: list[State] = []
    for where, state in zip(rows, states, strict=True):
        places += [where[inner] for inner in state.rows] if isinstance(state, RowGroups) else [where]
        parts += state.states if isinstance(state, RowGroups) else [state]
    return places, parts


def _joined_set(rows: list[Tensor], states: list[State], places: list[int]) -> list[tuple[Tensor, State]]:
    """One state of equal forms, or each by itself where they hold different values for all rows."""
    try:
        return [(torch.cat([rows[i] for i in places]), _joined([states[i] for i in places]))]
    except _Differs:
        return [(rows[i], states[i]) for i in places]


class _Differs(Exception):
    """States that differ in more than their rows."""


def _form(state: State) -> Any:
    """What states must have in common to be joined: kinds, counts and sizes beyond the batch."""
    items: list[Any] = [type(state)]
    for f in fields(cast(Any, state)):
        value = getattr(state, f.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, State):
                items.append(_form(item))
            elif isinstance(item, Tensor):
                batched = f.name not in state.batch_free
                longer = state.padded_in_front and f.name in state.growing
                items.append(tuple(n for i, n in enumerate(item.shape) if not _free(i, batched, longer, state)))
            else:
                items.append(item)
    return tuple(items)


def _free(axis: int, batched: bool, longer: bool, state: State) -> bool:
    """Whether a tensor's size along ``axis`` may differ between states that are joined."""
    return (batched and axis == 0) or (longer and axis == state.time_axis)


def _replaced(first: State, states: list[State], value: Callable[[list[Any]], Any]) -> State:
    """``first`` with every field, or every item of a tuple, made from those of all states."""

    def of(values: list[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(of(list(items)) for items in zip(*values, strict=True))
        return value(values)

    items = {f.name: of([getattr(s, f.name) for s in states]) for f in fields(cast(Any, first))}
    return cast(State, replace(cast(Any, first), **items))


def _joined(states: list[State]) -> State:
    """One state of all rows, of states of equal form."""
    first = states[0]
    items = {f.name: _value(first, f.name, [getattr(s, f.name) for s in states]) for f in fields(cast(Any, first))}
    return cast(State, replace(cast(Any, first), **items))


def _value(state: State, name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, tuple):
        return tuple(_value(state, name, list(items)) for items in zip(*values, strict=True))
    if isinstance(first, State):
        return _joined(values)
    if not isinstance(first, Tensor):
        return first
    if name not in state.batch_free:
        return torch.cat(
            _padded_in_front(values, state.time_axis) if state.padded_in_front and name in state.growing else values
        )
    if any(value is not first and not torch.equal(value, first) for value in values):
        raise _Differs
    return first


def _padded_in_front(values: list[Tensor], axis: int | None) -> list[Tensor]:
    """Tensors with zeros in front of the shorter ones along ``axis``."""
    assert axis is not None
    longest = max(value.shape[axis] for value in values)
    behind = 2 * (values[0].dim() - 1 - axis)
    return [F.pad(value, (*[0] * behind, longest - value.shape[axis], 0)) for value in values]


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
