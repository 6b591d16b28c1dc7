"""Readable form of :func:`seqconv_kernels.gated_linear_attention`: token by token, any floating dtype."""

import torch
from torch import Tensor

from .._core.packing import padded
from .._core.precision import accumulation_dtype, without_autocast
from .spec import Inputs


@padded("q", "k", "v", "log_decay")
def gated_linear_attention(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """S <- diag(exp g_t) S + k_t v_t^T ; o_t = scale S^T q_t."""
    q, k, v, log_decay, scale, state, _ = inputs
    state = k.new_zeros(k.shape[0], *k.shape[2:], v.shape[-1]) if state is None else state
    constant = log_decay is None or log_decay.dim() == 1
    decays = [log_decay] * k.shape[1] if constant or log_decay is None else log_decay.unbind(1)
    outputs = []
    for q_t, k_t, v_t, g_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), decays, strict=True):
        o_t, state = gated_linear_attention_step(Inputs(q_t, k_t, v_t, g_t, scale, state))
        outputs.append(o_t)
    return torch.stack(outputs, dim=1), state


@without_autocast
def gated_linear_attention_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token; queries of a group read the state of its key-value head."""
    q, k, v, log_decay, scale, state, _ = inputs
    assert state is not None
    dtype = accumulation_dtype(q, k, v, log_decay, state)
    wide_q, wide_k, wide_v, state = (x.to(dtype) for x in (q, k, v, state))
    if log_decay is not None:
        decay = log_decay.to(dtype).exp()
        state = state * (decay[..., None, None] if log_decay.dim() < k.dim() else decay[..., None])
    state = state + wide_k[..., :, None] * wide_v[..., None, :]
    grouped = scale * wide_q.unflatten(1, (k.shape[1], -1))
    return torch.einsum("bgrk,bgkv->bgrv", grouped, state).flatten(1, 2).to(v.dtype), state
