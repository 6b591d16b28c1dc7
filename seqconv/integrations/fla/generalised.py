"""Transitions of a diagonal plus a low rank, RWKV-7, Comba and gated DeltaProduct under fla's signatures.

    S[t] = diag(exp(gk[t])) S[t-1] + b[t] (S[t-1]^T a[t])^T + k[t] v[t]^T

Sources: ``fla/ops/{generalized_delta_rule,rwkv7,comba,gated_delta_product}`` of fla-org/flash-linear-attention at
bc3b101d.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels import delta_rule, dplr_delta_rule
from seqconv_kernels._core.errors import argument_error

from ..arguments import unserved
from .gates import unit_lengths
from .layout import Layout, layout, unit_length

Result = tuple[Tensor, Tensor | None]


def chunk_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    safe_gate: bool = False,
    chunk_size: int | None = None,
    disable_recompute: bool = False,
    cp_context: Any = None,
    lower_bound: float | None = None,
    **kwargs: Any,
) -> Result:
    """The generalised delta rule with a decay per channel of the keys.

    Args:
        q, k, a, b, gk: (batch, length, heads, d_k); ``gk`` is the logarithm of the decay.
        v: (batch, length, heads, d_v).
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, heads, d_k, d_v).
        output_final_state: also return the last state.
        cu_seqlens: bounds of sequences packed into a batch of one.
        cu_seqlens_cpu, safe_gate, chunk_size, disable_recompute, lower_bound: hints.
        cp_context: not served.

    Raises:
        ValueError: an argument that is not served, by its name.
    """
    unserved("chunk_dplr_delta_rule", cp_context=cp_context)
    how = layout("chunk_dplr_delta_rule", cu_seqlens, kwargs)
    return _run(how, q, k, v, a, b, gk, scale, initial_state, output_final_state)


def fused_recurrent_dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    gk: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """:func:`chunk_dplr_delta_rule` in either direction."""
    return _run(Layout(cu_seqlens, reverse), q, k, v, a, b, gk, scale, initial_state, output_final_state)


def chunk_iplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_dplr_delta_rule` without a decay."""
    how = layout("chunk_iplr_delta_rule", cu_seqlens, kwargs)
    return _run(how, q, k, v, a, b, None, scale, initial_state, output_final_state)


def fused_recurrent_iplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """:func:`chunk_iplr_delta_rule`."""
    return _run(Layout(cu_seqlens), q, k, v, a, b, None, scale, initial_state, output_final_state)


def chunk_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    safe_gate: bool = False,
    chunk_size: int | None = None,
    disable_recompute: bool = False,
    cp_context: Any = None,
    lower_bound: float | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_dplr_delta_rule` with RWKV-7's names: ``r`` queries, ``w`` the logarithm of the decay."""
    unserved("chunk_rwkv7", cp_context=cp_context)
    how = layout("chunk_rwkv7", cu_seqlens, kwargs)
    return _run(how, r, k, v, a, b, w, scale, initial_state, output_final_state)


def fused_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = True,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_rwkv7`, scaled by ``d_k ** -0.5`` if nothing is given."""
    how = layout("fused_recurrent_rwkv7", cu_seqlens, kwargs)
    return _run(how, r, k, v, a, b, w, scale, initial_state, output_final_state)


def fused_mul_recurrent_rwkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    kk: Tensor,
    a: Tensor,
    scale: float | None = 1.0,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_rwkv7` with a = ``-kk`` and b = ``kk * a``, in either direction."""
    how = layout("fused_mul_recurrent_rwkv7", cu_seqlens, kwargs, reverse=reverse)
    return _run(how, r, k, v, -kk, kk * a, w, scale, initial_state, output_final_state)


def chunk_comba(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    p: Tensor | None,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> Result:
    """Comba: ``S[t] = exp(g[t]) S[t-1] + k[t] (beta[t] (v[t] - S[t-1]^T p[t]))^T``, as fla's kernels compute it.

    fla's readable form decays the state before p reads it; its kernels, chunked and recurrent, afterwards.

    Args:
        q, k, p: (batch, length, heads, d_k); ``p`` is ``k`` if not given.
        v: (batch, length, v_heads, d_v).
        g: logarithm of the decay, (batch, length, v_heads).
        beta: like ``g``; one if not given.
        scale, initial_state, output_final_state, cu_seqlens, cu_seqlens_cpu: as for :func:`chunk_dplr_delta_rule`.
        use_qk_l2norm_in_kernel: give q, k and p unit length first.

    Raises:
        ValueError: a beta per channel of the values.
    """
    p = k if p is None else p
    beta = torch.ones_like(v[..., 0]) if beta is None else beta
    if use_qk_l2norm_in_kernel:
        q, k, p = unit_length(q), unit_length(k), unit_length(p)
    if beta.dim() == v.dim():
        remedy = "give one beta per head"
        raise argument_error("chunk_comba", "beta per channel of v", "(batch, length, v_heads)", remedy)
    write = beta[..., None] * k.repeat_interleave(v.shape[2] // k.shape[2], dim=2)
    return _run(Layout(cu_seqlens), q, write, v, -p, write, g, scale, initial_state, output_final_state)


def fused_recurrent_comba(
    q: Tensor,
    k: Tensor,
    p: Tensor | None,
    v: Tensor,
    g: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """:func:`chunk_comba`, with ``p`` before ``v``."""
    return chunk_comba(
        q, k, v, p, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens
    )


def chunk_gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    beta: Tensor,
    num_householder: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> Result:
    """The delta rule with ``num_householder`` steps per token, the decay before the first of them.

    It runs over sequences that many times as long, with the query at the last step of a token.

    Args:
        q: (batch, length, heads, d_k).
        k: (batch, length * num_householder, heads, d_k), the steps of a token next to each other.
        v: (batch, length * num_householder, heads, d_v).
        g: logarithm of the decay, (batch, length, heads), or ``None``.
        beta: (batch, length * num_householder, heads).
        num_householder: steps per token.
        scale, initial_state, output_final_state, cu_seqlens_cpu: as for :func:`chunk_dplr_delta_rule`.
        use_qk_l2norm_in_kernel: give queries and keys unit length first.
        cu_seqlens: bounds of sequences packed into a batch of one, in tokens.

    Raises:
        ValueError: keys of another length.
    """
    n = num_householder
    if n < 1 or k.shape[1] != n * q.shape[1]:
        got = f"q and k of {q.shape[1]} and {k.shape[1]} tokens with num_householder={n}"
        raise argument_error("chunk_gated_delta_product", got, "num_householder keys per query", "change either")
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    decay = None if g is None else _spread(g[..., None], n, 0)[..., 0]
    tokens = {"q": _spread(q, n, n - 1), "k": k, "v": v, "beta": beta, "log_decay": decay}
    how = Layout(None if cu_seqlens is None else n * cu_seqlens)
    o, last = how.run(delta_rule, tokens, initial_state, output_final_state, scale=scale)
    return o[:, n - 1 :: n], last


def _run(
    how: Layout,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_decay: Tensor | None,
    scale: float | None,
    state: Tensor | None,
    output_final_state: bool,
) -> Result:
    tokens = {"q": q, "k": k, "v": v, "a": a, "b": b, "log_decay": log_decay}
    return how.run(dplr_delta_rule, tokens, state, output_final_state, scale=scale)


def _spread(x: Tensor, steps: int, place: int) -> Tensor:
    """(batch, length, heads, width) -> (batch, length * steps, ...): each token at ``place`` among zeros."""
    return F.pad(x.unsqueeze(2), (0, 0, 0, 0, place, steps - 1 - place)).flatten(1, 2)
