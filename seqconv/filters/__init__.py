"""Filters: impulse responses per channel, one file per family."""

from .base import Filter, Recurrence
from .state_space.diagonal import DiagonalSSM

__all__ = ["DiagonalSSM", "Filter", "Recurrence"]
