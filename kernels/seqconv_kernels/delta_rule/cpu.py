"""The delta rule in C++: the recurrence itself, its state in the nearest cache (:mod:`..matrix_state.cpu`)."""

from torch import Tensor

from ..matrix_state.cpu import matrix_state


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, scale: float, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Value heads of a group share queries and keys."""
    o, last = matrix_state(q, k, v, log_decay, beta, scale, state)
    return o.to(v.dtype), last
