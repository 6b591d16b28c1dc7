"""Modules that look no ``forward`` up in their class: the hooks of the accelerate package keep the one they found.

A model that is spread over devices or offloaded (``device_map``) has such a hook on every module: ``module.forward`` is
the hook's, ``module._old_forward`` the method that it calls. A class's new ``forward`` acts on these modules when that
method is bound again.
"""

import gc
from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

NAMES = ("forward", "_old_forward")
"""Attributes of a module that hold a bound ``forward``: a removed hook leaves the first one."""


class Bound:
    """Modules that were bound to the new ``forward`` of their class, and what they were bound to."""

    def __init__(self) -> None:
        self._before = WeakKeyDictionary[nn.Module, dict[str, MethodType]]()

    def rebind(self, modules: Iterable[nn.Module]) -> None:
        """Bind the modules that keep a ``forward`` which was replaced in their class."""
        for module in modules:
            if kept := {n: m for n in NAMES if (m := _outdated(module, n)) is not None}:
                self._before[module] = kept
                for name in kept:
                    setattr(module, name, MethodType(type(module).forward, module))

    def undo(self) -> None:
        """Put back what was there; modules that were bound to something else since then stay."""
        for module, kept in list(self._before.items()):
            for name, method in kept.items():
                if module.__dict__.get(name) == MethodType(type(module).forward, module):
                    setattr(module, name, method)
        self._before.clear()


def instances(classes: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    """All modules of the process of these classes."""
    return (thing for thing in gc.get_objects() if issubclass(type(thing), classes))


def hides_class(module: nn.Module) -> bool:
    """Whether the module runs a ``forward`` of its own, which a class's new one cannot reach."""
    name = "_old_forward" if "_hf_hook" in module.__dict__ else "forward"
    own = module.__dict__.get(name)
    follows = isinstance(own, MethodType) and own.__func__ is type(module).forward
    return own is not None and not follows and _outdated(module, name) is None


def _outdated(module: nn.Module, name: str) -> MethodType | None:
    """The bound method, if it is what the class had before, or what an earlier acceleration put there."""
    kept, new = module.__dict__.get(name), type(module).forward
    replaced = getattr(new, "__wrapped__", None)
    if not isinstance(kept, MethodType) or kept.__func__ is new or replaced is None:
        return None
    return kept if kept.__func__ is replaced or _same_code(kept.__func__, new) else None


def _same_code(function: Any, other: Any) -> bool:
    return getattr(function, "__code__", None) is getattr(other, "__code__", ())
