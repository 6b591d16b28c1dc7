"""Distillation: long filters into small recurrences, with certificates."""

from .certificate import Certificate
from .filter import Distilled, distill_filter
from .model import DistilledModel, distill

__all__ = ["Certificate", "Distilled", "DistilledModel", "distill", "distill_filter"]
