"""A token of a stack of layers in one call of the C++ kernels: see :mod:`.program`."""

from .program import Rows, TokenProgram, Unfused, unsupported_reason

__all__ = ["Rows", "TokenProgram", "Unfused", "unsupported_reason"]
