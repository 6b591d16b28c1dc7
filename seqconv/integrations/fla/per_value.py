"""Recurrences whose state also decays per channel of the values (``gv``): token by token, in torch.

    S' = diag(exp(gk[t])) S[t-1] diag(exp(gv[t]))
    S[t] = S' + k[t] v[t]^T                              without beta
    S[t] = S' + p[t] (beta[t] (v[t] - S'^T k[t]))^T      with beta; p is k if not given
    o[t] = scale * S[t]^T q[t]

No op of seqconv has this decay, which no published model uses.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gv: Tensor | None = None,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    p: Tensor | None = None,
    *,
    scale: float | None,
    initial_state: Tensor | None,
    return_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As the ops of seqconv, with ``gv`` (batch, length, v_heads, d_v) and ``p`` like ``k``; differentiable."""
    tokens = [t if t is None else _wide(t) for t in (q, k, v, gv, log_decay, beta, p)]
    bounds = [0, q.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    outputs, states = [], []
    for row, (first, end) in enumerate(pairwise(bounds)):
        part = [None if t is None else t[:, first:end] for t in tokens]
        state = initial_state if initial_state is None or cu_seqlens is None else initial_state[row : row + 1]
        o, last = _sequence(part, scale, state)
        outputs.append(o)
        states.append(last)
    return torch.cat(outputs, dim=1).to(v.dtype), torch.cat(states)


def _sequence(tokens: list[Any], scale: float | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    q, k, v, gv, log_decay, beta, p = tokens
    heads = v.shape[2]
    q, k, p = (t.repeat_interleave(heads // t.shape[2], dim=2) for t in (q, k, k if p is None else p))
    decay = _state_decay(log_decay, torch.zeros_like(v) if gv is None else gv)
    S = v.new_zeros(v.shape[0], heads, k.shape[-1], v.shape[-1]) if state is None else _wide(state)
    outputs = []
    for t in range(q.shape[1]):
        S = S * decay[:, t].exp()
        write = v[:, t]
        if beta is not None:
            strength = beta[:, t] if beta.dim() == v.dim() else beta[:, t, :, None]
            write = strength * (write - torch.einsum("bhkv,bhk->bhv", S, k[:, t]))
        S = S + p[:, t, :, :, None] * write[:, :, None]
        outputs.append(torch.einsum("bhkv,bhk->bhv", S, q[:, t]))
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    return torch.stack(outputs, dim=1) * scale, S


def _state_decay(log_decay: Tensor | None, gv: Tensor) -> Tensor:
    """(batch, length, heads, d_k or 1, d_v)."""
    if log_decay is None:
        return gv[:, :, :, None]
    per_key = log_decay[..., None, None] if log_decay.dim() == 3 else log_decay[..., None]
    return per_key + gv[:, :, :, None]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
