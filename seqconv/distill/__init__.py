"""Distillation: long filters into small recurrences, with certificates."""

from .certificate import Certificate
from .filter import distill_filter
from .model import DistilledModel, distill
from .task import Distilled

__all__ = ["Certificate", "Distilled", "DistilledModel", "distill", "distill_filter"]
