"""seqconv models for transformers: one configuration, a model per task, registered with the Auto classes.

The model classes are imported at their first use: importing transformers' modelling code takes longer than the
rest of seqconv together.
"""

from importlib import import_module
from typing import Any

from .configuration import SeqConvConfig
from .deferred import deferred

__all__ = ["AUTO", "MODELS", "SeqConvConfig", "load", "register_auto_classes"]

MODELS = {
    "SeqConvModel": "model",
    "SeqConvForCausalLM": "tasks.language",
    "SeqConvForMaskedLM": "tasks.language",
    "SeqConvForSequenceClassification": "tasks.classification",
    "SeqConvForTokenClassification": "tasks.classification",
    "SeqConvForQuestionAnswering": "tasks.choices",
    "SeqConvForMultipleChoice": "tasks.choices",
    "SeqConvForImageClassification": "tasks.classification",
    "SeqConvForMaskedImageModeling": "tasks.images",
    "SeqConvForAudioClassification": "tasks.classification",
    "SeqConvForAudioFrameClassification": "tasks.sound",
    "SeqConvForCTC": "tasks.sound",
}
"""Model classes and the modules that define them."""

AUTO = {
    "AutoModel": "SeqConvModel",
    "AutoModelForCausalLM": "SeqConvForCausalLM",
    "AutoModelForMaskedLM": "SeqConvForMaskedLM",
    "AutoModelForSequenceClassification": "SeqConvForSequenceClassification",
    "AutoModelForTokenClassification": "SeqConvForTokenClassification",
    "AutoModelForQuestionAnswering": "SeqConvForQuestionAnswering",
    "AutoModelForMultipleChoice": "SeqConvForMultipleChoice",
    "AutoModelForImageClassification": "SeqConvForImageClassification",
    "AutoModelForMaskedImageModeling": "SeqConvForMaskedImageModeling",
    "AutoModelForAudioClassification": "SeqConvForAudioClassification",
    "AutoModelForAudioFrameClassification": "SeqConvForAudioFrameClassification",
    "AutoModelForCTC": "SeqConvForCTC",
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


def register_auto_classes() -> None:
    """Enter the configuration and the models into transformers' Auto classes; again does nothing more."""
    import transformers

    transformers.AutoConfig.register(SeqConvConfig.model_type, SeqConvConfig, exist_ok=True)
    for auto, model in AUTO.items():
        stand_in = deferred(f"{__name__}.{MODELS[model]}", model, SeqConvConfig, auto)
        getattr(transformers, auto).register(SeqConvConfig, stand_in, exist_ok=True)


def __getattr__(name: str) -> Any:
    return load(name)
