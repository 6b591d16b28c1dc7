"""Choose the implementation of an op, and say why the others were refused.

An op lists its implementations fastest first. ``implementation=None`` takes the first that serves the
inputs; the reference closes the list and refuses nothing. A named implementation runs or raises: nothing
falls back silently from what was asked for by name.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, TypeVar, no_type_check

from torch import Tensor

from .errors import argument_error, unknown_name

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)


@no_type_check  # its methods run under torch.compile, which cannot trace checks of annotations at run time
class Call(NamedTuple):
    """The inputs of one call, as an implementation sees them when it decides whether it can serve.

    Attributes:
        tensors: every tensor argument by name; an optional one that was not given is ``None``.
        options: every other argument by name.
    """

    tensors: Mapping[str, Tensor | None]
    options: Mapping[str, object] = MappingProxyType({})

    @property
    def device_type(self) -> str:
        """Device type of the first tensor given."""
        return next(t.device.type for t in self.tensors.values() if t is not None)

    def given(self) -> dict[str, Tensor]:
        """The tensors that were given."""
        return {name: t for name, t in self.tensors.items() if t is not None}


@dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
        name: ``"reference"``, ``"chunked"``, ``"cpu"``, ``"triton"`` …
        load: returns the function; imports happen here, at the first use, never at import of the package.
        refuse: returns why this implementation cannot serve the call, or ``None`` if it can.
    """

    name: str
    load: Callable[[], Callable[..., Any]]
    refuse: Callable[[Call], str | None]


def lazy(load: Callable[[], Callable[P, R]]) -> Callable[P, R]:
    """The function that ``load`` imports, at the first call: an import statement takes as long as a small kernel."""
    loaded: Callable[P, R] | None = None

    def call(*arguments: P.args, **options: P.kwargs) -> R:
        nonlocal loaded
        if loaded is None:
            loaded = load()
        return loaded(*arguments, **options)

    return call


def serves_all(_: Call) -> None:
    """The refusal function of an implementation that serves every call."""


class Op:
    """The implementations of one op, fastest first, the reference last."""

    def __init__(self, name: str, *implementations: Implementation) -> None:
        self.name = name
        self.implementations = implementations
        self._loaded: dict[str, Callable[..., Any]] = {}
        self._warned = False

    def choose(self, implementation: str | None, call: Call) -> Callable[..., Any]:
        """Return the function that computes this call.

        Raises:
            ValueError: ``implementation`` is unknown, or cannot serve the call; the reason is given.
        """
        if implementation is not None:
            return self._named(implementation, call)
        for chosen in self.implementations:
            if chosen.refuse(call) is None:
                break
        if chosen.name == "reference" and call.device_type != "cpu" and not self._warned:
            self._warned = True
            logger.warning("%s: %s tensors run on the reference: %s", self.name, call.device_type, self.report(call))
        return self._load(chosen)

    def _load(self, implementation: Implementation) -> Callable[..., Any]:
        """The function, imported once: an import statement takes as long as a small kernel."""
        function = self._loaded.get(implementation.name)
        if function is None:
            function = self._loaded[implementation.name] = implementation.load()
        return function

    def report(self, call: Call) -> dict[str, str | None]:
        """For each implementation the reason of its refusal of this call, or ``None`` if it serves it."""
        return {i.name: i.refuse(call) for i in self.implementations}

    def _named(self, name: str, call: Call) -> Callable[..., Any]:
        known = {i.name: i for i in self.implementations}
        if name not in known:
            raise unknown_name(self.name, "implementation", name, known)
        reason = known[name].refuse(call)
        if reason is not None:
            able = [n for n, why in self.report(call).items() if why is None]
            raise argument_error(
                self.name,
                f"implementation={name!r}",
                f"inputs that it serves ({reason})",
                f"take implementation=None or one of {', '.join(map(repr, able))}",
            )
        return self._load(known[name])
