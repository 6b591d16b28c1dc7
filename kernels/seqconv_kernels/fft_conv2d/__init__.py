"""Depthwise convolution of feature maps with filters as large as they are: see :mod:`.api`."""

from .api import fft_conv2d

__all__ = ["fft_conv2d"]
