"""One time step of diagonal state spaces: see :mod:`.api`."""

from .api import diagonal_step, prepare

__all__ = ["diagonal_step", "prepare"]
