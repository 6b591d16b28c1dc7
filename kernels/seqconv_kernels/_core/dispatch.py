"""Choose the implementation of an op, and say why the others do not support the call.

An op lists its implementations fastest first. ``implementation=None`` takes the first that supports the
inputs; the reference closes the list and supports all. A named implementation runs or raises: there is no silent
fallback from what was asked for by name.
"""

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .errors import argument_error, unknown_name
from .native import PLAIN, forward_mode
from .operator.inputs import given_tensors
from .operator.operators import is_observed
from .operator.sizes import is_exporting_to_onnx
from .triton.withdrawn import withdrawn_reason

I = TypeVar("I", bound=tuple[Any, ...])  # noqa: E741
R = TypeVar("R")

logger = logging.getLogger(__name__)

COMPOSED = ("chunked", "gathered", "reference")
"""Names of implementations in PyTorch's own operations, which every export can translate."""

SIGNATURES = 1024
"""Signatures of calls that an op remembers before it starts again."""


class Imported:
    """A function named by its path, ``"module:function"`` below this package.

    It is imported at the first use, never at import of the package, and once: an import takes as long as a kernel.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.function: Any = None
        _IMPORTED.setdefault(path, []).append(self)

    def resolve(self) -> Any:
        """The function."""
        # A compiler may not see the attribute change, so it is set before the compiler reads it first.
        if torch.compiler.is_compiling() or self.function is None:
            _import(self.path)
        return self.function


_IMPORTED: dict[str, list[Imported]] = {}


def _import(path: str) -> None:
    module, name = path.split(":")
    function = getattr(import_module(f"{__package__.rpartition('.')[0]}.{module}"), name)
    for imported in _IMPORTED[path]:
        imported.function = function


# What torch.compiler.assume_constant_result sets; calling that would import the whole compiler here.
_import._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Implementation:
    """One way to compute an op.

    Args:
        name: ``"reference"``, ``"chunked"``, ``"cpu"``, ``"triton"`` …
        path: of the function, as of :class:`Imported`; it takes the inputs of the op.
        unsupported_reason: path of a function of the inputs that returns why this implementation cannot
            serve them, or ``None`` if it can; without it every call is supported. In an op that remembers it depends on
            nothing but what :func:`signature` holds.
    """

    def __init__(self, name: str, path: str, unsupported_reason: str | None = None) -> None:
        self.name = name
        self.run = Imported(path)
        self._reason = None if unsupported_reason is None else Imported(unsupported_reason)

    def unsupported_reason(self, inputs: tuple[Any, ...]) -> str | None:
        """Why this implementation does not support the inputs, or ``None``."""
        if is_exporting_to_onnx() and self.name not in COMPOSED:
            return "ONNX has no operator for this kernel"
        reason = withdrawn_reason(self.run.path, inputs)
        if reason is None and self._reason is not None:
            reason = self._reason.resolve()(inputs)
        return reason


class Op(Generic[I, R]):
    """The implementations of one op.

    Args:
        name: of the op.
        inputs: their class, a ``NamedTuple``.
        implementations: fastest first, the reference last.
        remember: check and choose once per :func:`signature`; not for ops whose options change at every call, or whose
            choice depends on memory layouts.
    """

    def __init__(
        self, name: str, inputs: Callable[..., I], *implementations: Implementation, remember: bool = True
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.implementations = implementations
        self._remember = remember
        self._chosen: dict[tuple[Any, ...], Callable[[I], R]] = {}
        self._warned = False

    def __call__(self, inputs: I, check: Callable[[str, I], None], implementation: str | None = None) -> R:
        """Check the inputs, choose an implementation and run it.

        Args:
            inputs: of the call.
            check: ``check(name, inputs)`` raises where they do not fit; it does not look at values, except at those
                of ``cu_seqlens``. It is left out where inputs with the same :func:`signature` passed before.
            implementation: a name, or ``None`` for the fastest that supports the inputs.

        Raises:
            ValueError: from the check; ``implementation`` is unknown, or does not support the call.
        """
        key = signature(inputs) if self._remember and implementation is None else None
        if key is None:
            check(self.name, inputs)
            return self.choose(inputs, implementation)(inputs)
        run = self._chosen.get(key)
        if run is None:
            check(self.name, inputs)
            if len(self._chosen) >= SIGNATURES:
                self._chosen.clear()
            run = self._chosen[key] = self.choose(inputs)
        return run(inputs)

    def choose(self, inputs: I, implementation: str | None = None) -> Callable[[I], R]:
        """Return the function that computes this call.

        Raises:
            ValueError: ``implementation`` is unknown, or does not support the call; the reason is given.
        """
        if implementation is not None:
            named: Callable[[I], R] = self._named(implementation, inputs).run.resolve()
            return named
        for chosen in self.implementations:
            if chosen.unsupported_reason(inputs) is None:
                break
        if chosen.name == "reference" and not self._warned and (device := device_type(inputs)) != "cpu":
            self._warned = True
            logger.warning("%s: %s tensors run on the reference: %s", self.name, device, self.report(inputs))
        function: Callable[[I], R] = chosen.run.resolve()
        return function

    def report(self, inputs: I) -> dict[str, str | None]:
        """For each implementation the reason why it does not support this call, or ``None`` if it does."""
        return {i.name: i.unsupported_reason(inputs) for i in self.implementations}

    def _named(self, name: str, inputs: I) -> Implementation:
        known = {i.name: i for i in self.implementations}
        if name not in known:
            raise unknown_name(self.name, "implementation", name, known)
        reason = known[name].unsupported_reason(inputs)
        if reason is not None:
            able = [n for n, why in self.report(inputs).items() if why is None]
            raise argument_error(
                self.name,
                f"implementation={name!r}",
                f"inputs that it supports ({reason})",
                f"take implementation=None or one of {', '.join(map(repr, able))}",
            )
        return known[name]


def device_type(inputs: tuple[Any, ...]) -> str:
    """Device type of the first tensor given."""
    return next(iter(given_tensors(inputs).values())).device.type


def signature(inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What checks and choices depend on, for plain calls in eager mode on CPU; ``None`` for all others.

    Those are dense tensors whose memory holds their values, none of them bounds of packed sequences, which are checked
    at every call; no compiler, transform or mode is active. Two calls of one signature differ in the values and
    memory layouts of their tensors only.
    """
    if is_observed() or forward_mode():
        return None
    recorded = torch.is_grad_enabled()
    key: list[Any] = [recorded]
    for value in inputs:
        if type(value) in PLAIN:
            dtype = value.dtype
            if not value.is_cpu or not dtype.is_floating_point or value.is_neg() or value._is_zerotensor():
                return None
            key.append(value.shape)
            key.append(dtype)
            if recorded:
                key.append(value.requires_grad)
        elif isinstance(value, Tensor | list):
            return None
        else:
            key.append(value)
    return tuple(key)
