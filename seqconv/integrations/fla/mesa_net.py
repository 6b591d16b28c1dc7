"""MesaNet under fla's signatures: linear attention that solves the regression from keys to values at every token.

    H[t] = exp(g[t]) H[t-1] + beta[t] k[t] k[t]^T      G[t] = exp(g[t]) G[t-1] + beta[t] k[t] v[t]^T
    o[t] = G[t]^T (H[t] + diag(lamb))^-1 q[t]

The systems are solved exactly. fla takes conjugate gradients, by default 30 steps, with which its tests compare the
exact solution; a call that asks for fewer would get another result there, and raises.

Source: ``fla/ops/mesa_net`` of fla-org/flash-linear-attention at bc3b101d.
"""

from itertools import pairwise

import torch
from torch import Tensor

from seqconv_kernels import gated_linear_attention
from seqconv_kernels._core.errors import argument_error

from ...mixers.linear_attention.mesa_net import solve_regressions
from .gates import unit_lengths
from .layout import Layout

STEPS = 30
"""Steps of conjugate gradients in fla, by default."""


def chunk_mesa_net(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    lamb: Tensor,
    h_kk_init: Tensor | None = None,
    h_kv_init: Tensor | None = None,
    output_final_state: bool = False,
    max_CG_iteration: int = STEPS,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Whole sequences.

    Args:
        q, k: (batch, length, heads, d_k).
        v: (batch, length, heads, d_v).
        g: logarithm of the decay, (batch, length, heads).
        beta: strength of a token, (batch, length, heads).
        lamb: regularisation, (heads, d_k).
        h_kk_init: H before, (sequences, heads, d_k, d_k).
        h_kv_init: G before, (sequences, heads, d_k, d_v).
        output_final_state: also return the last H and G.
        max_CG_iteration: at least 30; the solution is exact.
        use_qk_l2norm_in_kernel: give queries and keys unit length first.
        cu_seqlens: bounds of sequences packed into a batch of one.
        cu_seqlens_cpu: a hint.

    Returns:
        (batch, length, heads, d_v), and the last H and G or ``None``.

    Raises:
        ValueError: ``max_CG_iteration`` below 30.
    """
    _check_steps("chunk_mesa_net", max_CG_iteration)
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "g": g, "beta": beta}
    # Both states next to each other, (d_k, d_k + d_v).
    state = None
    if h_kk_init is not None or h_kv_init is not None:
        given = h_kk_init if h_kk_init is not None else h_kv_init
        assert given is not None
        zeros = [given.new_zeros(*given.shape[:2], k.shape[-1], t.shape[-1]) for t in (k, v)]
        pair = zip((h_kk_init, h_kv_init), zeros, strict=True)
        state = torch.cat([zero if part is None else part for part, zero in pair], dim=-1)
    o, last = Layout(cu_seqlens).run(_regressions, tokens, state, output_final_state, lamb=lamb)
    return (o, None, None) if last is None else (o, *last.split([k.shape[-1], v.shape[-1]], dim=-1))


def mesa_net_decoding_one_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    lamb: Tensor,
    beta: Tensor,
    prev_h_kk: Tensor,
    prev_h_kv: Tensor,
    max_CG_iteration: int = STEPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """One token of :func:`chunk_mesa_net`: tensors without the length; the output and the next H and G."""
    _check_steps("mesa_net_decoding_one_step", max_CG_iteration)
    q, k, v, g, beta = (t[:, None] for t in (q, k, v, g, beta))
    o, keys, memory = chunk_mesa_net(q, k, v, g, beta, lamb, prev_h_kk, prev_h_kv, True)
    assert keys is not None
    assert memory is not None
    return o[:, 0].to(q.dtype), keys.to(prev_h_kk.dtype), memory.to(prev_h_kv.dtype)


def _check_steps(function: str, steps: int) -> None:
    if steps < STEPS:
        got, remedy = f"max_CG_iteration={steps}", "leave out max_CG_iteration: the systems are solved exactly"
        raise argument_error(function, got, f"at least {STEPS}", remedy)


def _regressions(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    lamb: Tensor,
    initial_state: Tensor | None,
    return_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As the ops of seqconv, the state (sequences, heads, d_k, d_k + d_v)."""
    wide = torch.promote_types(torch.promote_types(q.dtype, lamb.dtype), torch.float32)
    d_k, d_v = k.shape[-1], v.shape[-1]
    queries, keys, decay, regularisation = (t.to(wide) for t in (q, k, g, lamb))
    written = beta.to(wide)[..., None] * keys
    bounds = [0, q.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    rows = q.shape[0] if cu_seqlens is None else len(bounds) - 1
    state = keys.new_zeros(rows, q.shape[2], d_k, d_k + d_v) if initial_state is None else initial_state.to(wide)
    outputs, states = [], []
    for row, (first, end) in enumerate(pairwise(bounds)):
        own, part = state if cu_seqlens is None else state[row : row + 1], slice(first, end)
        before, memory = own.split([d_k, d_v], dim=-1)
        given = [t[:, part] for t in (queries, keys, written, decay)]
        solved, after = solve_regressions(*given, before.contiguous(), regularisation)
        values = v[:, part].to(wide)
        o, memory = gated_linear_attention(
            solved, given[2], values, given[3], scale=1.0, initial_state=memory.contiguous(), return_final_state=True
        )  # fmt: skip
        outputs.append(o)
        states.append(torch.cat([after, memory], dim=-1))
    return torch.cat(outputs, dim=1).to(v.dtype), torch.cat(states)
