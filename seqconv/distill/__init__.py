"""Distillation: long filters into small recurrences, with certificates.

The package is called as its main function too: after ``from seqconv import distill``, both ``distill(model, order=8)``
and ``distill.distill_filter`` are what they say.
"""

import sys
from types import ModuleType

from .certificates.certificate import Certificate
from .filter import distill_filter
from .model import DistilledModel, distill
from .regularizer import regularizer
from .task import Distilled
from .tuning import fine_tune

__all__ = ["Certificate", "Distilled", "DistilledModel", "distill", "distill_filter", "fine_tune", "regularizer"]


class _CallablePackage(ModuleType):
    """A package and the function of the same name in one: importing a submodule always sets the package's name."""

    __call__ = staticmethod(distill)


sys.modules[__name__].__class__ = _CallablePackage
