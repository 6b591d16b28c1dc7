"""The delta rule in C++: the recurrence itself, its state in the nearest cache (:mod:`.._linear_attention.cpu`)."""

from torch import Tensor

from .._core import native
from .._core.steps import in_place_unsupported_reason
from .._linear_attention.cpu import linear_attention, linear_attention_step
from .._linear_attention.spec import Inputs as Recurrence
from .spec import Inputs


def step_unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs of a step, or ``None``."""
    return in_place_unsupported_reason(inputs) or native.unsupported_reason(inputs)


def delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Value heads of a group share queries and keys."""
    q, k, v, beta, log_decay, scale, state, cu_seqlens = inputs
    return linear_attention(Recurrence(q, k, v, log_decay, beta, scale, state, cu_seqlens))


def delta_rule_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token from the state, which is overwritten."""
    q, k, v, beta, log_decay, scale, state, _ = inputs
    return linear_attention_step(Recurrence(q, k, v, log_decay, beta, scale, state, None))
