"""Sizes that a compiler or an export keeps open, and which form of a computation they are to see."""

from typing import Any

import torch


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
    return torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
