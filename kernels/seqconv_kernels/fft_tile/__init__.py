"""A tile of an online convolution by FFT: see :mod:`.api`."""

from .api import fft_tile, fft_tile_spectrum, serves

__all__ = ["fft_tile", "fft_tile_spectrum", "serves"]
