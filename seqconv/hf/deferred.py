"""Model classes that are imported at their first use, for entering them into transformers' Auto classes."""

from importlib import import_module
from typing import Any

from .saving.remote import MODULE

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
"""Keyword arguments of ``from_pretrained`` that say how files are fetched."""


class _Deferred(type):
    """A class that stands for a model class and imports it when something is asked of it."""

    def __getattr__(cls, name: str) -> Any:
        return getattr(_load(cls), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _load(cls)(*args, **kwargs)

    def from_pretrained(cls, source: Any, *args: Any, trust_remote_code: Any = None, **kwargs: Any) -> Any:
        """As in transformers; with ``trust_remote_code=True`` a class of the user that the checkpoint names."""
        model: Any = _load(cls)
        auto = vars(cls)["auto"]
        named = (getattr(kwargs.get("config"), "auto_map", None) or {}).get(auto)
        if trust_remote_code and named and named.split("--")[-1].split(".")[0] != MODULE:
            from transformers.dynamic_module_utils import get_class_from_dynamic_module

            hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            model = get_class_from_dynamic_module(named, source, **hub)
            model.register_for_auto_class(auto)
        return model.from_pretrained(source, *args, trust_remote_code=trust_remote_code, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _load(cls))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _load(cls))


def _load(cls: type) -> Any:
    return getattr(import_module(vars(cls)["source"]), cls.__name__)


def deferred(source: str, name: str, config: type, auto: str) -> type:
    """A stand-in for a model class.

    Args:
        source: the module that defines it.
        name: of the class.
        config: its configuration class.
        auto: the Auto class that it is entered into.
    """
    return _Deferred(name, (), {"config_class": config, "source": source, "auto": auto, "__module__": source})
