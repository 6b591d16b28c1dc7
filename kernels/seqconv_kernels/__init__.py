"""Fused sequence operations: one call, several implementations, a readable reference for each.

Importing this package compiles nothing, probes no device and imports no optional package.
"""

from .causal_conv1d import causal_conv1d, causal_conv1d_step
from .fft_conv import fft_conv
from .selective_scan import selective_scan, selective_scan_step

__all__ = [
    "causal_conv1d",
    "causal_conv1d_step",
    "fft_conv",
    "selective_scan",
    "selective_scan_step",
]
