"""Model classes that are imported at their first use, for entering them into transformers' Auto classes."""

from importlib import import_module
from typing import Any


class _Deferred(type):
    """A class that stands for a model class and imports it when something is asked of it."""

    def __getattr__(cls, name: str) -> Any:
        return getattr(_load(cls), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _load(cls)(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _load(cls))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _load(cls))


def _load(cls: type) -> Any:
    return getattr(import_module(vars(cls)["source"]), cls.__name__)


def deferred(source: str, name: str, config: type) -> type:
    """A stand-in for a model class.

    Args:
        source: the module that defines it.
        name: of the class.
        config: its configuration class.
    """
    return _Deferred(name, (), {"config_class": config, "source": source, "__module__": source})
