"""State-space duality, the scan of Mamba-2: see :mod:`.api`."""

from .api import ssd, ssd_step

__all__ = ["ssd", "ssd_step"]
