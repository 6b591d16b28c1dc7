"""The state that a mixer hands out and takes back: a small dataclass of tensors, a pytree.

A subclass is declared with :func:`state_class`; its fields are tensors, further states, tuples of states,
integers or ``None``. Every tensor has the batch as its first axis, except those named in ``batch_free``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any, ClassVar, TypeVar, cast, dataclass_transform

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from seqconv_kernels._core.complex import as_complex

StateT = TypeVar("StateT", bound="State")


class State:
    """Base of all states: moving, selecting rows, detaching, copying; never any mathematics.

    Attributes:
        batch_free: names of tensor fields without a batch axis (shared by all rows).
        growing: names of tensor fields whose sizes beyond the batch change with the context.
        time_axis: the only axis of those that changes; ``None``: any.
        padded_in_front: whether zeros in front along ``time_axis`` change nothing, so that rows of different contexts
            fit into one tensor.
        capacity: longest context of a growing state that has a fixed size; ``None``: it grows.
        of_modules: whether its fields are states of modules of their own, which are handed on one by one.
        not_begun: rows without a token so far, where that is known; ``None``: any row may have begun.
        checked: what its mixer checked when it made this state by a step, :meth:`Mixer._fits` of the token: the next
            token is compared with it instead of being checked again; ``None``: nothing is known.
    """

    not_begun: Tensor | None = None  # no field: copies of a state do without it
    checked: tuple[Any, ...] | None = None  # nor this
    capacity: int | None = None  # a field of states that can have one
    batch_free: ClassVar[frozenset[str]] = frozenset()
    growing: ClassVar[frozenset[str]] = frozenset()
    time_axis: ClassVar[int | None] = None
    padded_in_front: ClassVar[bool] = False
    of_modules: ClassVar[bool] = False

    def map(self: StateT, function: Callable[[Tensor], Tensor], *, batch_free: bool = True) -> StateT:
        """Apply ``function`` to every tensor; ``batch_free=False`` leaves tensors without a batch axis alone."""
        return self._visit(function, lambda state: state.map(function, batch_free=batch_free), batch_free)

    def _visit(
        self: StateT, function: Callable[[Tensor], Tensor], nested: Callable[["State"], "State"], batch_free: bool
    ) -> StateT:
        def visit(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value) if batch_free or name not in self.batch_free else value
            if isinstance(value, State):
                return nested(value)
            if isinstance(value, tuple):
                return tuple(visit(name, item) for item in value)
            return value

        items = {f.name: visit(f.name, getattr(self, f.name)) for f in fields(cast(Any, self))}
        return cast(StateT, replace(cast(Any, self), **items))

    def select(self: StateT, index: Tensor) -> StateT:
        """Rows ``index`` of the batch, in that order (beam search, batch expansion)."""
        return self._visit(lambda t: t.index_select(0, index.to(t.device)), lambda s: s.select(index), batch_free=False)

    def repeat_interleave(self: StateT, repeats: int) -> StateT:
        """Each row ``repeats`` times."""
        return self._visit(
            lambda t: t.repeat_interleave(repeats, dim=0), lambda s: s.repeat_interleave(repeats), batch_free=False
        )

    def detach(self: StateT) -> StateT:
        """The same values without their gradient history (truncated back-propagation)."""
        return self.map(Tensor.detach)

    def clone(self: StateT) -> StateT:
        """A copy that shares no memory with this one."""
        return self.map(Tensor.clone)

    def to(self: StateT, *args: Any, **kwargs: Any) -> StateT:
        """Move every tensor, as ``Tensor.to``; a dtype applies to floating point tensors.

        Complex tensors take it for their real and imaginary parts, float32 at least.
        """

        def move(t: Tensor) -> Tensor:
            if t.is_complex():
                parts = torch.view_as_real(t.resolve_conj()).to(*args, **kwargs)
                return as_complex(parts.to(torch.promote_types(parts.dtype, torch.float32)))
            moved = t.to(*args, **kwargs)
            return moved if t.is_floating_point() else moved.to(t.dtype)

        return self.map(move)

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return next(self._batch_sizes())

    def _batch_sizes(self) -> Iterator[int]:
        for f in fields(cast(Any, self)):
            value = getattr(self, f.name)
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Tensor) and f.name not in self.batch_free:
                    yield item.shape[0]
                elif isinstance(item, State):
                    yield from item._batch_sizes()

    def with_capacity(self: StateT, length: int) -> StateT:
        """The same state in tensors of one size up to a context of ``length``, as far as it can have one.

        States that grow by padding in front are padded to that size and drop padding for tokens; others stay as they
        are, see ``has_fixed_shape``.
        """
        return self._visit(lambda tensor: tensor, lambda state: state.with_capacity(length), batch_free=True)

    @property
    def has_fixed_shape(self) -> bool:
        """Whether it consists of tensors whose sizes do not change with the context, and counts nothing."""

        def is_fixed(name: str, value: Any) -> bool:
            if isinstance(value, State):
                return value.has_fixed_shape
            if isinstance(value, tuple):
                return all(is_fixed(name, item) for item in value)
            if isinstance(value, Tensor):
                return self.capacity is not None or name not in self.growing
            return value is None or name == "capacity"

        return all(is_fixed(f.name, getattr(self, f.name)) for f in fields(cast(Any, self)))

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Sizes beyond the batch that do not grow, by dotted name of the tensor: what makes two states alike."""
        fixed = [(leaf, leaf.fixed_axes()) for leaf in self._leaves()]
        return {leaf.name: tuple(leaf.tensor.shape[axis] for axis in axes) for leaf, axes in fixed if axes is not None}

    def _leaves(self, prefix: str = "") -> Iterator["_Leaf"]:
        for f in fields(cast(Any, self)):
            value = getattr(self, f.name)
            for i, item in enumerate(value if isinstance(value, tuple) else (value,)):
                name = f"{prefix}{f.name}.{i}" if isinstance(value, tuple) else f"{prefix}{f.name}"
                if isinstance(item, Tensor):
                    yield _Leaf(name, item, f.name not in self.batch_free, f.name in self.growing, self.time_axis)
                elif isinstance(item, State):
                    yield from item._leaves(f"{name}.")


@dataclass(frozen=True)
class _Leaf:
    name: str
    tensor: Tensor
    batched: bool
    growing: bool
    time_axis: int | None

    def fixed_axes(self) -> list[int] | None:
        """Axes beyond the batch that do not grow; ``None`` where nothing is known of them."""
        if self.growing and self.time_axis is None:
            return None
        return [i for i in range(int(self.batched), self.tensor.dim()) if not (self.growing and i == self.time_axis)]


@dataclass_transform()
def state_class(cls: type[StateT]) -> type[StateT]:
    """Make ``cls`` a dataclass and register it as a pytree: ``torch.compile`` and ``export`` see its tensors."""
    made = dataclass(cls)
    pytree.register_dataclass(made, serialized_type_name=f"{made.__module__}.{made.__qualname__}")
    return made


StateSizes = tuple[type[State], dict[str, tuple[int, ...]]]
"""Kind of a state and its :meth:`State.sizes`."""


@state_class
class InitialState(State):
    """The state before the first token, of any mixer: each builds its own when it is called with it.

    Attributes:
        max_length: longest context to come, where known.
    """

    max_length: int | None = None


class CarriedState:
    """A state on its way into a module and out of it.

    Code around a call may convert the tensors among its arguments, in dataclasses too: FSDP's mixed precision would
    round a state that accumulates in float32. It leaves objects that it does not know alone. A ``forward`` under
    :func:`carries_state` takes it instead of the state and returns the new one in the same way.
    """

    __slots__ = ("state",)

    def __init__(self, state: State) -> None:
        self.state = state

    def to(self, *args: Any, **kwargs: Any) -> "CarriedState":
        """Move the state, as accelerate does with arguments."""
        return CarriedState(self.state.to(*args, **kwargs))


def carries_state(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``forward(self, x, state=None, ...)``, which returns ``(y, state, ...)``, take a :class:`CarriedState`."""

    @wraps(forward)
    def unwrap(self: Any, x: Tensor, state: Any = None, **options: Any) -> Any:
        if not isinstance(state, CarriedState):
            return forward(self, x, state, **options)
        y, after, *rest = forward(self, x, state.state, **options)
        return y, CarriedState(after), *rest

    return unwrap


def call_with_state(module: Callable[..., Any], x: Tensor, state: State | None, **options: Any) -> Any:
    """``module(x, state, **options)`` with a state that nothing around the call converts; ``None``: the initial one."""
    y, after, *rest = module(x, CarriedState(InitialState() if state is None else state), **options)
    return y, after.state, *rest
