"""The delta rule in Triton: a triangular inverse and matrix products per chunk (:mod:`.._linear_attention.triton`)."""

from torch import Tensor

from .._linear_attention.triton import linear_attention
from .spec import Inputs


def delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Value heads of a group share queries and keys."""
    q, k, v, beta, log_decay, scale, state, cu_seqlens = inputs
    return linear_attention(q, k, v, log_decay, beta, scale, state, cu_seqlens, delta=True)
