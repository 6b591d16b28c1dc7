"""Dilated causal depthwise convolutions in series: see :mod:`.api`."""

from .api import dilated_conv, dilated_conv_step, unroll_rings
from .spec import ACTIVATIONS

__all__ = ["ACTIVATIONS", "dilated_conv", "dilated_conv_step", "unroll_rings"]
