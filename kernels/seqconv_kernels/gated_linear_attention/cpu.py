"""Gated linear attention in C++: the recurrence itself, its state in registers (:mod:`.._linear_attention.cpu`)."""

from torch import Tensor

from .._linear_attention.cpu import linear_attention


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    scale: float,
    state: Tensor | None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Query heads that share a key-value head each go through its state; one of them hands it on."""
    o, last = linear_attention(q, k, v, log_decay, None, scale, state, cu_seqlens)
    return o, last[:, :: q.shape[2] // k.shape[2]]
