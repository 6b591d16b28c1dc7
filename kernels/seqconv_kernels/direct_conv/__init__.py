"""Direct sums of an online convolution: see :mod:`.api`."""

from .api import direct_conv_step, direct_conv_tile

__all__ = ["direct_conv_step", "direct_conv_tile"]
