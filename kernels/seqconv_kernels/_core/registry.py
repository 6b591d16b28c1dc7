"""All ops, found from the public functions of the package: the list there is the only one."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from .dispatch import Op


class Entry(NamedTuple):
    """One public op.

    Attributes:
        folder: the package that holds it.
        function: the public function.
        op: its implementations.
    """

    folder: str
    function: Callable[..., Any]
    op: Op[Any, Any]

    def module(self, name: str) -> Any:
        """A module of the folder: ``"cases"``, ``"reference"`` …"""
        return import_module(f"{self.folder}.{name}")


def ops() -> Mapping[str, Entry]:
    """Every public op by name, steps included."""
    package = import_module(__package__.rpartition(".")[0])
    found = {}
    for name in package.__all__:
        function = getattr(package, name)
        folder = function.__module__.rpartition(".")[0]
        spec = import_module(f"{folder}.spec")
        op = next((op for op in vars(spec).values() if isinstance(op, Op) and op.name == name), None)
        if op is not None:
            found[name] = Entry(folder, function, op)
    return found
