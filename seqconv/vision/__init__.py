"""Operators on maps, (batch, height, width, channels): they have two axes to be causal in, and no state.

They stand beside the mixers and not among them: a mixer has one axis of time, a prefill and a step, and the registry
holds every mixer to that.
"""

from ..convolution.spatial import convolve_2d
from ..filters.spatial import DirectFilter2d, HyenaFilter2d
from .hyena_nd import Hyena2d

__all__ = ["DirectFilter2d", "Hyena2d", "HyenaFilter2d", "convolve_2d"]
