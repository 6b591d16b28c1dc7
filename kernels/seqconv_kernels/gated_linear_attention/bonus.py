"""The bonus of RWKV-5 and RWKV-6: a token is read with a weight of its own, the others before their decay.

``o[t] = scale (S[t-1] + diag(u) k[t] v[t]^T)^T q[t]`` is what the query of token t reads of the state after the token
before, plus a term of its own token alone. Every implementation of linear attention therefore serves, with the queries
one token earlier: ``S[t-1]^T q[t]`` is the output of token t - 1 for the query of token t.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.precision import accumulation_dtype, without_autocast
from .spec import Inputs

Run = Callable[[Inputs], tuple[Tensor, Tensor]]


@without_autocast
def attend_with_bonus(inputs: Inputs, bonus: Tensor, run: Run) -> tuple[Tensor, Tensor]:
    """Outputs and final states for a ``bonus`` of (heads, d_k); ``run`` computes linear attention."""
    q, state, cu_seqlens = inputs.q, inputs.initial_state, inputs.cu_seqlens
    later, final_state = run(inputs._replace(q=torch.cat([q, torch.zeros_like(q[:, :1])], dim=1)[:, 1:]))
    before = torch.cat([torch.zeros_like(later[:, :1]), later], dim=1)[:, :-1]
    # The query of a first token has read another sequence, or nothing: it reads its initial state.
    starts = torch.zeros(1, dtype=torch.long) if cu_seqlens is None else cu_seqlens[:-1].long()
    starts = starts.to(q.device)
    if state is None:
        before = before.index_fill(1, starts, 0.0)
    else:
        first = _read(state, q[:, 0] if cu_seqlens is None else q[0, starts], inputs.scale).to(before.dtype)
        before = before.index_copy(1, starts, first[:, None] if cu_seqlens is None else first[None])
    return _with_own_token(before, inputs, bonus), final_state


@without_autocast
def step_with_bonus(inputs: Inputs, bonus: Tensor, run: Run) -> tuple[Tensor, Tensor]:
    """The same for one token."""
    assert inputs.initial_state is not None
    before = _read(inputs.initial_state, inputs.q, inputs.scale)
    _, state = run(inputs)
    return _with_own_token(before, inputs, bonus), state


def _read(state: Tensor, q: Tensor, scale: float) -> Tensor:
    """``scale S^T q`` for states (rows, kv_heads, d_k, d_v) and queries (rows, heads, d_k)."""
    dtype = accumulation_dtype(state, q)
    grouped = q.to(dtype).unflatten(1, (state.shape[1], -1))
    return scale * torch.einsum("bgkv,bgrk->bgrv", state.to(dtype), grouped).flatten(1, 2)


def _with_own_token(before: Tensor, inputs: Inputs, bonus: Tensor) -> Tensor:
    q, k, v = inputs.q, inputs.k, inputs.v
    dtype, shared = accumulation_dtype(q, k, v, bonus, before), q.shape[-2] // k.shape[-2]
    k, v = (x.to(dtype).repeat_interleave(shared, dim=-2) for x in (k, v))
    weight = inputs.scale * (q.to(dtype) * bonus.to(dtype) * k).sum(-1, keepdim=True)
    return (before.to(dtype) + weight * v).to(inputs.v.dtype)
