"""Structured matrix products for the impulse responses of state spaces: see :mod:`.api`."""

from .api import cauchy, vandermonde
from .nodes import half_angle_nodes

__all__ = ["cauchy", "half_angle_nodes", "vandermonde"]
