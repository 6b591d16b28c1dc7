"""Selective state-space scan with a diagonal state matrix: see :mod:`.api`."""

from .api import selective_scan, selective_scan_step

__all__ = ["selective_scan", "selective_scan_step"]
