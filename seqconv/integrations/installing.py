"""A package of seqconv's ops under the import name of the original, for code that imports that.

Nothing is written to disk: the modules are entries of ``sys.modules``, of this process alone.
"""

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from seqconv_kernels._core.errors import argument_error

MARK = "__seqconv__"
"""Attribute of installed modules."""


class Shim:
    """The modules of one original package.

    Args:
        package: import name of the original.
        version: of the original whose signatures these are.
        modules: what each of its modules has.
    """

    def __init__(self, package: str, version: str, modules: Mapping[str, Mapping[str, Any]]) -> None:
        self._package, self._version, self._modules = package, version, modules

    def install(self) -> None:
        """Make ``import`` of the original's name find seqconv's ops; nothing the second time.

        Raises:
            ValueError: the original is installed, or was imported.
        """
        if is_shim(self._package):
            return
        if _found(self._package):
            remedy = "import it as it is, or remove the package"
            got = f"the package {self._package} itself"
            raise argument_error(f"{self._package}.install", got, "an environment without it", remedy)
        for name in sorted({parent for full in self._modules for parent in _parents(full)}):
            module = _module(name, self._version, self._modules.get(name, {}))
            sys.modules[name] = module
            if "." in name:
                parent, _, last = name.rpartition(".")
                # A function of the same name, as of ``selective_state_update``, is what the parent shows.
                vars(sys.modules[parent]).setdefault(last, module)

    def uninstall(self) -> None:
        """Take away what :meth:`install` put there; names that were imported from it stay as they are."""
        for name in [n for n in sys.modules if n == self._package or n.startswith(f"{self._package}.")]:
            if is_shim(name):
                del sys.modules[name]


def is_shim(name: str) -> bool:
    """Whether a module of this name is one of seqconv's."""
    return MARK in vars(sys.modules.get(name, object))


def exports(module: ModuleType, names: str) -> dict[str, Any]:
    """The named attributes, by their names."""
    return {name: getattr(module, name) for name in names.split()}


def _found(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # in sys.modules without a specification
        return True


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _module(name: str, version: str, content: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(name, f"seqconv's ops under the signatures of {name}.")
    module.__spec__ = ModuleSpec(name, None, origin="seqconv", is_package=True)
    module.__path__ = []  # an import of a module that is not here is a ModuleNotFoundError
    vars(module).update({MARK: True, "__version__": version, **content})
    return module
