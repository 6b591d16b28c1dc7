"""Checks that linear attention and the delta rules share: of whole sequences and of steps, and of their state."""

from collections.abc import Callable
from typing import Any

from .._core.checks import check_shape
from .._core.packing import count_rows

Check = Callable[[str, Any], None]


def checks(check_shapes: Callable[[str, Any, str, int], None], heads: str) -> tuple[Check, Check]:
    """The checks of an op over sequences and of its step, from that of its tokens.

    Args:
        check_shapes: of the operation, the inputs, and the names and number of the axes: (leading, heads, width).
        heads: name of the axis of the heads of ``v``, one state each, in messages.
    """

    def check(operation: str, inputs: Any) -> None:
        check_shapes(operation, inputs, "batch, length", 4)
        _check_state(operation, inputs, "initial_state", count_rows(operation, inputs.cu_seqlens, inputs.k), heads)

    def check_step(operation: str, inputs: Any) -> None:
        check_shapes(operation, inputs, "batch", 3)
        _check_state(operation, inputs, "state", inputs.k.shape[0], heads)

    return check, check_step


def _check_state(operation: str, inputs: Any, name: str, rows: int, heads: str) -> None:
    k, v = inputs.k, inputs.v
    wanted = (rows, v.shape[-2], k.shape[-1], v.shape[-1])
    check_shape(operation, name, inputs.initial_state, f"batch or segments, {heads}, d_k, d_v", wanted)
