"""Gated linear attention in C++: the recurrence itself, its state in registers (:mod:`.._linear_attention.cpu`)."""

from torch import Tensor

from .._core import native
from .._core.steps import in_place_unsupported_reason
from .._linear_attention.cpu import linear_attention, linear_attention_step
from .._linear_attention.spec import Inputs as Recurrence
from .spec import Inputs, decay_per_token


def step_unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs of a step, or ``None``."""
    if inputs.q.shape[1] != inputs.k.shape[1]:
        return "queries share key-value heads, and it keeps one state per query head"
    return in_place_unsupported_reason(inputs) or native.unsupported_reason(inputs)


def gated_linear_attention(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Query heads that share a key-value head each go through its state; the first of them returns it."""
    q, k, v, _, scale, state, cu_seqlens = inputs
    log_decay = decay_per_token(inputs)
    o, last = linear_attention(Recurrence(q, k, v, log_decay, None, scale, state, cu_seqlens))
    shared = q.shape[2] // k.shape[2]
    return o, last if shared == 1 else last[:, ::shared].contiguous()


def gated_linear_attention_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token from the state, which is overwritten."""
    q, k, v, _, scale, state, _ = inputs
    log_decay = decay_per_token(inputs)
    return linear_attention_step(Recurrence(q, k, v, log_decay, None, scale, state, None))
