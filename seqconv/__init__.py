"""seqconv: long-sequence models, every mixer behind one interface."""

from typing import TYPE_CHECKING, Any

from .hf import SeqConvConfig, load, register_auto_classes
from .mixer import Mixer
from .parameters import parameter_groups
from .registry import create_mixer, list_mixers, mixer_config, register
from .state import State

if TYPE_CHECKING:
    from .hf.classification import (
        SeqConvForAudioClassification,
        SeqConvForImageClassification,
        SeqConvForSequenceClassification,
        SeqConvForTokenClassification,
    )
    from .hf.language import SeqConvForCausalLM, SeqConvForMaskedLM
    from .hf.model import SeqConvModel

__all__ = [
    "Mixer",
    "SeqConvConfig",
    "SeqConvForAudioClassification",
    "SeqConvForCausalLM",
    "SeqConvForImageClassification",
    "SeqConvForMaskedLM",
    "SeqConvForSequenceClassification",
    "SeqConvForTokenClassification",
    "SeqConvModel",
    "State",
    "create_mixer",
    "list_mixers",
    "mixer_config",
    "parameter_groups",
    "register",
]


def __getattr__(name: str) -> Any:
    return load(name)


register_auto_classes()
