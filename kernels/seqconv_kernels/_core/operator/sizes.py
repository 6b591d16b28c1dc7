"""Sizes that a compiler or an export keeps open, and which form of a computation they are to see."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_portable = ContextVar("portable", default=False)


def known(condition: Any) -> bool:
    """Whether a condition on sizes holds, for all sizes where a compiler or an export keeps some of them open.

    A plain ``if`` on such sizes compiles the code once for every outcome, and fixes the size of an export.
    """
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def is_exporting_to_onnx() -> bool:
    """Whether only PyTorch's own operations may be recorded, since the graph will be translated to ONNX."""
    return torch.compiler.is_exporting() and (_portable.get() or torch.onnx.is_in_onnx_export())


@contextmanager
def portable_operations() -> Iterator[None]:
    """Let ``torch.export`` record what an export to ONNX does."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)
