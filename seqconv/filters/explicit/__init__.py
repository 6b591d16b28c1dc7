"""Explicit filters: the taps, or kernels of several scales, are the parameters."""
