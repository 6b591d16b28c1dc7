"""One file per mixer, one folder per family: ``from seqconv.mixers import Mamba`` imports the file of Mamba alone.

To add a mixer: write ``seqconv/mixers/<family>/<name>.py`` with a class under ``@register``; nothing else is edited.
"""

from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

from ..mixer import Mixer

_NAMES = sorted(m.name for m in walk_packages(__path__, f"{__name__}.") if not m.ispkg)


def load_all() -> list[ModuleType]:
    """Import the file of every mixer, which registers it."""
    return [import_module(name) for name in _NAMES]


def __getattr__(name: str) -> Any:
    for module in _candidates(name):
        value = getattr(module, name, None)
        if isinstance(value, type) and issubclass(value, Mixer) and value.__module__ == module.__name__:
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; seqconv.list_mixers() names the mixers")


def _candidates(name: str) -> list[ModuleType]:
    """The module whose name the class bears, if there is one (``StripedHyena``, ``striped_hyena``), or all of them."""
    if name.startswith("_"):
        return []
    named = [module for module in _NAMES if module.rpartition(".")[2].replace("_", "") == name.lower()]
    return [import_module(module) for module in named] or load_all()
