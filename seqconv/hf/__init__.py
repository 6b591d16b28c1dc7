"""seqconv models for transformers: one configuration, a model per task, registered with the Auto classes.

The model classes are imported at their first use: importing transformers' modelling code takes longer than the
rest of seqconv together.
"""

from importlib import import_module
from typing import Any

from .configuration import SeqConvConfig
from .deferred import deferred
from .vision.configuration import SeqConvVisionConfig

__all__ = [
    "AUTO",
    "EXTRACTORS",
    "MODELS",
    "VISION_AUTO",
    "VISION_MODELS",
    "SeqConvConfig",
    "SeqConvVisionConfig",
    "load",
    "register_auto_classes",
]

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
    "SeqConvForVideoClassification": "tasks.classification",
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
    "AutoModelForVideoClassification": "SeqConvForVideoClassification",
    "AutoModelForAudioClassification": "SeqConvForAudioClassification",
    "AutoModelForAudioFrameClassification": "SeqConvForAudioFrameClassification",
    "AutoModelForCTC": "SeqConvForCTC",
}
"""Auto classes of transformers and what they build for a :class:`SeqConvConfig`."""

VISION_MODELS = {
    "SeqConvVisionModel": "vision.models",
    "SeqConvBackbone": "vision.models",
    "SeqConvVisionForImageClassification": "vision.models",
    "SeqConvVisionForAudioClassification": "vision.sound",
    "SeqConvForSemanticSegmentation": "vision.segmentation",
}
"""Classes of image models with feature maps, and the modules that define them."""

VISION_AUTO = {
    "AutoModel": "SeqConvVisionModel",
    "AutoBackbone": "SeqConvBackbone",
    "AutoModelForImageClassification": "SeqConvVisionForImageClassification",
    "AutoModelForAudioClassification": "SeqConvVisionForAudioClassification",
    "AutoModelForSemanticSegmentation": "SeqConvForSemanticSegmentation",
}
"""Auto classes of transformers and what they build for a :class:`SeqConvVisionConfig`."""

EXTRACTORS = {
    "SeqConvWaveformFeatureExtractor": "checked_extractors",
    "SeqConvMelFeatureExtractor": "checked_extractors",
    "SeqConvSpectrogramFeatureExtractor": "checked_extractors",
}
"""Feature extractors of sound, and the modules that define them."""


def load(name: str) -> Any:
    """The model class of that name.

    Raises:
        AttributeError: there is none.
    """
    modules = {**MODELS, **VISION_MODELS, **EXTRACTORS}
    if name not in modules:
        raise AttributeError(f"module 'seqconv' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)


def register_auto_classes() -> None:
    """Enter the configuration and the models into transformers' Auto classes; again does nothing more."""
    import transformers

    for config, auto_classes, modules in (
        (SeqConvConfig, AUTO, MODELS),
        (SeqConvVisionConfig, VISION_AUTO, VISION_MODELS),
    ):
        transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto, model in auto_classes.items():
            stand_in = deferred(f"{__name__}.{modules[model]}", model, config, auto)
            getattr(transformers, auto).register(config, stand_in, exist_ok=True)
    for name, module in EXTRACTORS.items():  # found by the name in the file: a configuration has several
        stand_in = deferred(f"{__name__}.{module}", name, SeqConvConfig, "AutoFeatureExtractor")
        transformers.AutoFeatureExtractor.register(name, stand_in, exist_ok=True)


def __getattr__(name: str) -> Any:
    return load(name)
