"""seqconv: long-sequence models, every mixer behind one interface.

Importing the package registers its models with transformers' Auto classes and does nothing else: each name below is
imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .hf import MODELS, VISION_MODELS, SeqConvConfig, load, register_auto_classes
from .hf import SeqConvVisionConfig as SeqConvVisionConfig

if TYPE_CHECKING:
    from ._create_mixer import create_mixer
    from .distill import distill
    from .hf.model import SeqConvModel
    from .hf.tasks.choices import SeqConvForMultipleChoice as SeqConvForMultipleChoice
    from .hf.tasks.choices import SeqConvForQuestionAnswering
    from .hf.tasks.classification import (
        SeqConvForAudioClassification,
        SeqConvForImageClassification,
        SeqConvForSequenceClassification,
        SeqConvForTokenClassification,
    )
    from .hf.tasks.images import SeqConvForMaskedImageModeling as SeqConvForMaskedImageModeling
    from .hf.tasks.language import SeqConvForCausalLM, SeqConvForMaskedLM
    from .hf.tasks.sound import SeqConvForAudioFrameClassification as SeqConvForAudioFrameClassification
    from .hf.tasks.sound import SeqConvForCTC as SeqConvForCTC
    from .hf.vision.models import SeqConvBackbone as SeqConvBackbone
    from .hf.vision.models import SeqConvVisionForImageClassification as SeqConvVisionForImageClassification
    from .hf.vision.models import SeqConvVisionModel as SeqConvVisionModel
    from .hf.vision.segmentation import SeqConvForSemanticSegmentation as SeqConvForSemanticSegmentation
    from .hf.vision.sound import SeqConvVisionForAudioClassification as SeqConvVisionForAudioClassification
    from .integrations.onnx import export_onnx as export_onnx
    from .integrations.transformers import accelerate
    from .interop import from_original, list_checkpoints, list_originals, load_checkpoint
    from .mixer import Mixer
    from .parameters import parameter_groups
    from .quantization import quantize
    from .registry import list_mixers, mixer_config, register
    from .state import State
    from .zoo import create_model, list_models

__all__ = [
    "Mixer",
    "SeqConvConfig",
    "SeqConvForAudioClassification",
    "SeqConvForCausalLM",
    "SeqConvForImageClassification",
    "SeqConvForMaskedLM",
    "SeqConvForQuestionAnswering",
    "SeqConvForSequenceClassification",
    "SeqConvForTokenClassification",
    "SeqConvModel",
    "State",
    "accelerate",
    "create_mixer",
    "create_model",
    "distill",
    "from_original",
    "list_checkpoints",
    "list_mixers",
    "list_models",
    "list_originals",
    "load_checkpoint",
    "mixer_config",
    "parameter_groups",
    "quantize",
    "register",
]

_MODULES = {
    "Mixer": "mixer",
    "State": "state",
    "accelerate": "integrations.transformers",
    "create_mixer": "registry",
    "create_model": "zoo",
    "export_onnx": "integrations.onnx",
    "from_original": "interop",
    "list_checkpoints": "interop",
    "list_mixers": "registry",
    "list_models": "zoo",
    "list_originals": "interop",
    "load_checkpoint": "interop",
    "mixer_config": "registry",
    "parameter_groups": "parameters",
    "quantize": "quantization",
    "register": "registry",
    "to_transformers": "hf.vision.published",
}
"""The module of each name; model classes are those of :data:`seqconv.hf.MODELS`."""


def __getattr__(name: str) -> Any:
    if name == "distill":  # the package, which is called as its main function
        return import_module(".distill", __name__)
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name) if name in _MODULES else load(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *MODELS, *VISION_MODELS})


register_auto_classes()
