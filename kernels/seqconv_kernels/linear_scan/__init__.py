"""Linear recurrence with a diagonal that changes in time: see :mod:`.api`."""

from .api import linear_scan, linear_scan_step

__all__ = ["linear_scan", "linear_scan_step"]
