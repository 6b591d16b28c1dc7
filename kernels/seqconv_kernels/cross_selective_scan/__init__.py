"""Selective scans of one input in several orders, summed: see :mod:`.api`."""

from .api import cross_selective_scan

__all__ = ["cross_selective_scan"]
