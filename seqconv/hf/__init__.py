"""seqconv models for transformers: one configuration, a model per task, registered with the Auto classes.

The model classes are imported at their first use: importing transformers' modelling code takes longer than the
rest of seqconv together.
"""

from importlib import import_module
from typing import Any

from .configuration import SeqConvConfig

__all__ = ["AUTO", "MODELS", "SeqConvConfig", "load", "register_auto_classes"]

MODELS = {
    "SeqConvModel": "model",
    "SeqConvForCausalLM": "language",
    "SeqConvForMaskedLM": "language",
    "SeqConvForSequenceClassification": "classification",
    "SeqConvForTokenClassification": "classification",
    "SeqConvForImageClassification": "classification",
    "SeqConvForAudioClassification": "classification",
}
"""Model classes and the modules that define them."""

AUTO = {
    "AutoModel": "SeqConvModel",
    "AutoModelForCausalLM": "SeqConvForCausalLM",
    "AutoModelForMaskedLM": "SeqConvForMaskedLM",
    "AutoModelForSequenceClassification": "SeqConvForSequenceClassification",
    "AutoModelForTokenClassification": "SeqConvForTokenClassification",
    "AutoModelForImageClassification": "SeqConvForImageClassification",
    "AutoModelForAudioClassification": "SeqConvForAudioClassification",
}
"""Auto classes of transformers and what they build for a :class:`SeqConvConfig`."""


def load(name: str) -> Any:
    """The model class of that name.

    Raises:
        AttributeError: there is none.
    """
    if name not in MODELS:
        raise AttributeError(f"module 'seqconv' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODELS[name]}"), name)


class _Deferred(type):
    """A class that stands for a model class and imports it when something is asked of it."""

    def __getattr__(cls, name: str) -> Any:
        return getattr(load(cls.__name__), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return load(cls.__name__)(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, load(cls.__name__))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, load(cls.__name__))


def register_auto_classes() -> None:
    """Enter the configuration and the models into transformers' Auto classes; again does nothing more."""
    import transformers

    transformers.AutoConfig.register(SeqConvConfig.model_type, SeqConvConfig, exist_ok=True)
    for auto, model in AUTO.items():
        stand_in = _Deferred(model, (), {"config_class": SeqConvConfig, "__module__": __name__})
        getattr(transformers, auto).register(SeqConvConfig, stand_in, exist_ok=True)


def __getattr__(name: str) -> Any:
    return load(name)
