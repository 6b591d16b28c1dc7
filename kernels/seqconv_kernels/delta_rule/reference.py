"""Readable form of :func:`seqconv_kernels.delta_rule`: token by token, any floating dtype."""

import torch
from torch import Tensor

from .._core.packing import padded
from .._core.precision import accumulation_dtype, without_autocast
from .spec import Inputs


@padded("q", "k", "v", "beta", "log_decay")
def delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """S <- diag(exp g_t) S ; S <- S + k_t (beta_t (v_t - S^T k_t))^T ; o_t = scale S^T q_t."""
    q, k, v, beta, log_decay, scale, state, _ = inputs
    state = k.new_zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3]) if state is None else state
    decays = [None] * k.shape[1] if log_decay is None else log_decay.unbind(1)
    outputs = []
    for q_t, k_t, v_t, b_t, g_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), beta.unbind(1), decays, strict=True):
        o_t, state = delta_rule_step(Inputs(q_t, k_t, v_t, b_t, g_t, scale, state))
        outputs.append(o_t)
    return torch.stack(outputs, dim=1), state


@without_autocast
def delta_rule_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token; value heads of a group share queries and keys."""
    q, k, v, beta, log_decay, scale, state, _ = inputs
    assert state is not None
    dtype = accumulation_dtype(q, k, v, beta, log_decay, state)
    q, k = (x.to(dtype).repeat_interleave(v.shape[1] // x.shape[1], dim=1) for x in (q, k))
    beta, state = beta.to(dtype), state.to(dtype)
    if log_decay is not None:
        decay = log_decay.to(dtype).exp()
        state = state * (decay[..., None] if log_decay.dim() == k.dim() else decay[..., None, None])
    error = v.to(dtype) - torch.einsum("bhkv,bhk->bhv", state, k)
    correction = error * (beta if beta.dim() == v.dim() else beta[..., None])
    state = state + k[..., :, None] * correction[..., None, :]
    return torch.einsum("bhkv,bhk->bhv", state, scale * q).to(v.dtype), state
