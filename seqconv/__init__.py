"""seqconv: long-sequence models, every mixer behind one interface."""

from .mixer import Mixer
from .registry import create_mixer, list_mixers, mixer_config, register
from .state import State

__all__ = ["Mixer", "State", "create_mixer", "list_mixers", "mixer_config", "register"]
