"""Gated linear attention in Triton: chunks in matrix products (:mod:`.._linear_attention.triton`)."""

from torch import Tensor

from .._linear_attention.triton import linear_attention


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    scale: float,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Query heads that share a key-value head each walk with its state; one of them hands it on."""
    o, last = linear_attention(q, k, v, log_decay, None, scale, state, cu_seqlens, delta=False)
    return o, last[:, :: q.shape[2] // k.shape[2]]
