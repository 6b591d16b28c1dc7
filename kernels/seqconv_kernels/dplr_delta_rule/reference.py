"""Readable form of :func:`seqconv_kernels.dplr_delta_rule`: token by token, any floating dtype."""

from typing import Any

import torch
from torch import Tensor

from .._core.packing import padded
from .._core.precision import accumulation_dtype, without_autocast
from .spec import Inputs


@padded("q", "k", "v", "a", "b", "log_decay")
def dplr_delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """S <- diag(exp g_t) S + b_t (S^T a_t)^T + k_t v_t^T ; o_t = scale S^T q_t."""
    k, v, state = inputs.k, inputs.v, inputs.initial_state
    state = k.new_zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3]) if state is None else state
    tokens = [[None] * k.shape[1] if x is None else x.unbind(1) for x in inputs[:6]]
    outputs = []
    for q_t, k_t, v_t, a_t, b_t, g_t in zip(*tokens, strict=True):
        o_t, state = dplr_delta_rule_step(Inputs(q_t, k_t, v_t, a_t, b_t, g_t, inputs.scale, state))
        outputs.append(o_t)
    return torch.stack(outputs, dim=1), state


@without_autocast
def dplr_delta_rule_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token; value heads of a group share what has fewer heads."""
    v, dtype, heads = inputs.v, accumulation_dtype(*inputs[:6], inputs.initial_state), inputs.v.shape[1]
    assert inputs.initial_state is not None
    state = inputs.initial_state.to(dtype)
    given = (inputs.q, inputs.k, inputs.a, inputs.b, inputs.log_decay)
    q, k, a, b, log_decay = (_repeated(x, heads, dtype) for x in given)
    read = torch.einsum("bhkv,bhk->bhv", state, a)
    if log_decay is not None:
        state = state * log_decay.exp()[..., None]
    state = state + torch.einsum("bhk,bhv->bhkv", k if b is None else b, read)
    state = state + torch.einsum("bhk,bhv->bhkv", k, v.to(dtype))
    return torch.einsum("bhkv,bhk->bhv", state, inputs.scale * q).to(v.dtype), state


def _repeated(x: Tensor | None, heads: int, dtype: torch.dtype) -> Any:
    return None if x is None else x.to(dtype).repeat_interleave(heads // x.shape[1], dim=1)
