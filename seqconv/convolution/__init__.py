"""A filter in its forms: parallel by FFT, by its recurrence, exact online, replaced by another filter."""

from .long_convolution import Kernel, LongConvolution, RecurrentState, convolve
from .online import OnlineState, init_online, online_prefill, online_step

__all__ = [
    "Kernel",
    "LongConvolution",
    "OnlineState",
    "RecurrentState",
    "convolve",
    "init_online",
    "online_prefill",
    "online_step",
]
