"""Fused sequence operations: one call, several implementations, a readable reference for each.

Importing this package compiles nothing, probes no device and imports no optional package.
"""

from .fft_conv import fft_conv

__all__ = ["fft_conv"]
