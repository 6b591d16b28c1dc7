"""Distillation: long filters into small recurrences, with certificates."""

from .certificate import Certificate
from .filter import Distilled, distill_filter

__all__ = ["Certificate", "Distilled", "distill_filter"]
