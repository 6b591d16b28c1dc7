"""Causal depthwise convolution with a few taps: see :mod:`.api`."""

from .api import causal_conv1d, causal_conv1d_step

__all__ = ["causal_conv1d", "causal_conv1d_step"]
