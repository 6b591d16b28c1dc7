"""The delta rule in Triton: a triangular inverse and matrix products per chunk (:mod:`..matrix_state.triton`)."""

from torch import Tensor

from ..matrix_state.triton import matrix_state


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    scale: float,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Value heads of a group share queries and keys."""
    return matrix_state(q, k, v, log_decay, beta, scale, state, cu_seqlens, delta=True)
