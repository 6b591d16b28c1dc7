"""Linear attention with a decaying state: see :mod:`.api`."""

from .api import gated_linear_attention, gated_linear_attention_step

__all__ = ["gated_linear_attention", "gated_linear_attention_step"]
