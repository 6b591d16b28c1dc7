"""Causal depthwise convolution with a filter as long as the sequence: see :mod:`.api`."""

from .api import fft_conv

__all__ = ["fft_conv"]
