"""Readable form of :func:`seqconv_kernels.delta_rule`: token by token, any floating dtype."""

import torch
from torch import Tensor

from .._core.precision import accumulation_dtype, without_autocast


@without_autocast
def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, scale: float, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S <- diag(exp g_t) S ; S <- S + k_t (beta_t (v_t - S^T k_t))^T ; o_t = scale S^T q_t."""
    if state is None:
        state = k.new_zeros(v.shape[0], v.shape[2], k.shape[3], v.shape[3])
    decays = [None] * k.shape[1] if log_decay is None else log_decay.unbind(1)
    outputs = []
    for q_t, k_t, v_t, b_t, g_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), beta.unbind(1), decays, strict=True):
        o_t, state = step(q_t, k_t, v_t, b_t, g_t, scale, state)
        outputs.append(o_t)
    return torch.stack(outputs, dim=1), state


@without_autocast
def step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, scale: float, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token; value heads of a group share queries and keys."""
    dtype = accumulation_dtype(q, k, v, beta, log_decay, state)
    q, k = (x.to(dtype).repeat_interleave(v.shape[1] // x.shape[1], dim=1) for x in (q, k))
    beta, state = beta.to(dtype), state.to(dtype)
    if log_decay is not None:
        decay = log_decay.to(dtype).exp()
        state = state * (decay[..., None] if log_decay.dim() == k.dim() else decay[..., None, None])
    wrong = v.to(dtype) - torch.einsum("bhkv,bhk->bhv", state, k)
    correction = wrong * (beta if beta.dim() == v.dim() else beta[..., None])
    state = state + k[..., :, None] * correction[..., None, :]
    return scale * torch.einsum("bhkv,bhk->bhv", state, q).to(v.dtype), state
