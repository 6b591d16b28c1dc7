"""The delta rule in C++: the recurrence itself, its state in the nearest cache (:mod:`..matrix_state.cpu`)."""

from torch import Tensor

from ..matrix_state.cpu import matrix_state


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    scale: float,
    state: Tensor | None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Value heads of a group share queries and keys."""
    return matrix_state(q, k, v, log_decay, beta, scale, state, cu_seqlens)
