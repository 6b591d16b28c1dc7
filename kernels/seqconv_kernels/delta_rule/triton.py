"""The delta rule in Triton: a triangular inverse and matrix products per chunk (:mod:`.._linear_attention.triton`)."""

from torch import Tensor

from .._linear_attention.triton import linear_attention


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
    return linear_attention(q, k, v, log_decay, beta, scale, state, cu_seqlens, delta=True)
