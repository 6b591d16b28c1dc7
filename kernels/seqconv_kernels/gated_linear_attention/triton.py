"""Gated linear attention in Triton: chunks in matrix products (:mod:`.._linear_attention.triton`)."""

from torch import Tensor

from .._linear_attention.triton import linear_attention
from .spec import Inputs, decay_per_token


def gated_linear_attention(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Query heads that share a key-value head each go through its state; the first of them returns it."""
    q, k, v, _, scale, state, cu_seqlens = inputs
    log_decay = decay_per_token(inputs)
    o, last = linear_attention(q, k, v, log_decay, None, scale, state, cu_seqlens, delta=False)
    return o, last[:, :: q.shape[2] // k.shape[2]].contiguous()
