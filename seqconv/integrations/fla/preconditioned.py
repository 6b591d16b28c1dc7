"""The gated delta rule and Kimi Delta Attention with preconditioned keys under fla's signatures.

With A per channel of the keys::

    A[t] = exp(g_atk[t]) A[t-1] + beta_atk[t] k[t]^2
    p[t] = k[t] x^(-r / (1 + |r|)),   r = log(A[t] + eps) - log_atk_scale
    S' = diag(exp(g[t])) S[t-1],      S[t] = S' + p[t] (beta[t] (v[t] - S'^T k[t]))^T

Keys erase as they are and write preconditioned, each channel multiplied by at most x and divided by at most x. It runs
as a scan for A and the generalised delta rule, which reads the state before its decay: ``a = -beta exp(g) k``.

Sources: ``fla/ops/{atk,precond_gated_delta_rule,precond_kda}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import dplr_delta_rule, dplr_delta_rule_step, linear_scan, linear_scan_step
from seqconv_kernels._core.errors import argument_error

from ..arguments import no_others, required, unserved
from . import decoding
from .gates import decay_of, states_before_chunks, unit_lengths
from .layout import Layout, layout
from .preconditioner import Preconditioner, preconditioned, scan_of

Result = tuple[Tensor, Tensor | None, Tensor | None]

CHUNK = 64
"""Of ``chunk_precond_kda``."""


def chunk_precond_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    g_atk: Tensor,
    beta_atk: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    initial_A_state: Tensor | None = None,
    output_final_state: bool = False,
    use_gate_in_kernel: bool = False,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: Any = None,
    transpose_state_layout: bool = False,
    x: float = 1.5,
    eps: float = 1e-6,
    log_atk_scale: Tensor | float | None = None,
    solve_tril_precision: str | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    **kwargs: Any,
) -> Result | tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Kimi Delta Attention with preconditioned keys; queries and keys get unit length first.

    Args:
        q, k: (batch, length, heads, d_k).
        v: (batch, length, v_heads, d_v), a multiple of the heads.
        g: logarithm of the decay, (batch, length, v_heads, d_k); with ``use_gate_in_kernel`` the input of the gate.
        g_atk: logarithm of the decay of A, (batch, length, heads or v_heads).
        beta_atk: strength of a token in A, like ``g_atk``.
        beta: (batch, length, v_heads).
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, v_heads, d_k, d_v), or with the values first.
        initial_A_state: (sequences, heads of ``g_atk``, d_k).
        output_final_state: also return both last states.
        use_gate_in_kernel, lower_bound: as for :func:`~.delta_rule.chunk_kda`.
        cu_seqlens: bounds of sequences packed into a batch of one.
        transpose_state_layout: states are (sequences, v_heads, d_v, d_k).
        x: what a channel is multiplied or divided by at most.
        eps: under the logarithm of A.
        log_atk_scale: where the factor is one, a number or one per head of ``g_atk``; -0.2 if not given.
        return_intermediate_states: also return the state before each chunk of 64 tokens.
        cp_context: not served.
        safe_gate, cu_seqlens_cpu, chunk_indices, solve_tril_precision, disable_recompute: hints.
        kwargs: ``A_log`` and ``dt_bias``.

    Returns:
        (batch, length, v_heads, d_v), and the last S and A or ``None``.

    Raises:
        ValueError: an argument that is not served, by its name.
    """
    name = "chunk_precond_kda"
    unserved(name, cp_context=cp_context)
    A_log, dt_bias = kwargs.pop("A_log", None), kwargs.pop("dt_bias", None)
    # The original normalises whatever this argument says.
    no_others(name, kwargs, "use_qk_l2norm_in_kernel")
    decay = decay_of(name, g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    how = Layout(cu_seqlens, state_v_first=transpose_state_layout)
    by = Preconditioner(g_atk, beta_atk, x, eps, log_atk_scale)
    keys, squares = preconditioned(*unit_lengths(q, k, True), by, cu_seqlens, initial_A_state, output_final_state)
    op, tokens = scan_of(keys, v, decay, beta)
    o, last = how.run(op, tokens, initial_state, output_final_state, scale=scale)
    if not return_intermediate_states:
        return o, last, squares
    before = states_before_chunks(how, tokens, initial_state, CHUNK, op)
    return o, last, squares, before.to(k.dtype)


def fused_recurrent_precond_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    g_atk: Tensor,
    beta_atk: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    initial_A_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = True,
    use_gate_in_kernel: bool = False,
    lower_bound: float | None = None,
    cu_seqlens: Tensor | None = None,
    transpose_state_layout: bool = False,
    x: float = 1.5,
    eps: float = 1e-6,
    log_atk_scale: Tensor | float | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_precond_kda`, with or without unit lengths."""
    return fused_recurrent_precond_kda_fwd(
        q, k, v, g, g_atk, beta_atk, beta, A_log, dt_bias, initial_state, initial_A_state, scale, output_final_state,
        False, cu_seqlens, None, None, use_qk_l2norm_in_kernel, use_gate_in_kernel, lower_bound, None,
        transpose_state_layout, x, eps, log_atk_scale, **kwargs,
    )  # fmt: skip


def fused_recurrent_precond_kda_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    g_atk: Tensor,
    beta_atk: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    initial_A_state: Tensor | None = None,
    scale: float | None = None,
    output_final_state: bool = False,
    inplace_final_state: bool = True,
    cu_seqlens: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    lower_bound: float | None = None,
    out: Tensor | None = None,
    transpose_state_layout: bool = False,
    x: float = 1.5,
    eps: float = 1e-6,
    log_atk_scale: Tensor | float | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_precond_kda` with the states of pools moved on in place.

    Args:
        q, k, v, g, g_atk, beta_atk, beta, A_log, dt_bias, scale, cu_seqlens: as there.
        initial_state, initial_A_state: states of the sequences, or pools of them; both have the same rows.
        inplace_final_state, ssm_state_indices, num_accepted_tokens, out: as for
            :func:`~.decoding.fused_recurrent_kda_fwd`.
        output_final_state, use_gate_in_kernel, lower_bound, transpose_state_layout, x, eps, log_atk_scale: as there.
        use_qk_l2norm_in_kernel: give queries and keys unit length first.

    Raises:
        ValueError: a pool without ``inplace_final_state``; an argument that is not served, by its name.
    """
    name = "fused_recurrent_precond_kda_fwd"
    no_others(name, kwargs)
    decay = decay_of(name, g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    by = Preconditioner(g_atk, beta_atk, x, eps, log_atk_scale)
    rows, accepted = ssm_state_indices, num_accepted_tokens
    if initial_A_state is None and rows is not None:
        # Without a pool of its own A starts at zero in every sequence, and its last values go nowhere.
        squares, _ = Layout(cu_seqlens).run(linear_scan, by.scan(k), None, False)
        squares_after = None
    else:
        of_squares = decoding.Run(linear_scan, linear_scan_step, by.scan(k), Layout(cu_seqlens), {}, "x")
        pool = decoding.Pool(
            initial_A_state, inplace_final_state and initial_A_state is not None, False, rows, accepted
        )
        squares, squares_after = decoding.move_on(name, of_squares, pool, output_final_state, None)
    op, tokens = scan_of((q, k, by.keys(k, squares)), v, decay, beta)
    if rows is not None and op is not dplr_delta_rule:
        remedy = "give one beta per head, or no pool"
        raise argument_error(name, "beta per channel of v with ssm_state_indices", "(batch, length, v_heads)", remedy)
    how = Layout(cu_seqlens, state_v_first=transpose_state_layout)
    pool = decoding.Pool(initial_state, inplace_final_state, transpose_state_layout, rows, accepted)
    run = decoding.Run(op, dplr_delta_rule_step, tokens, how, {"scale": scale})
    return *decoding.move_on(name, run, pool, output_final_state, out), squares_after


def chunk_precond_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g_atk: Tensor,
    g: Tensor,
    beta_atk: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    initial_A_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = True,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    cp_context: Any = None,
    transpose_state_layout: bool = False,
    x: float = 1.5,
    eps: float = 1e-6,
    log_atk_scale: Tensor | float | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_precond_kda` with a decay per head: ``g`` is (batch, length, v_heads)."""
    name = "chunk_precond_gated_delta_rule"
    unserved(name, cp_context=cp_context)
    layout(name, cu_seqlens, kwargs)
    return fused_recurrent_precond_gated_delta_rule(
        q, k, v, g, None, None, beta, g_atk, beta_atk, scale, initial_state, initial_A_state, output_final_state,
        use_qk_l2norm_in_kernel, cu_seqlens, transpose_state_layout, x, eps, log_atk_scale,
    )  # fmt: skip


def fused_recurrent_precond_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    g_atk: Tensor | None = None,
    beta_atk: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    initial_A_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = True,
    cu_seqlens: Tensor | None = None,
    transpose_state_layout: bool = False,
    x: float = 1.5,
    eps: float = 1e-6,
    log_atk_scale: Tensor | float | None = None,
) -> Result:
    """:func:`chunk_precond_kda` with decays per head (``g``), per channel of the keys (``gk``) and of the values
    (``gv``), any of them; ``beta`` is one if not given, and may be per channel of the values.

    Raises:
        ValueError: ``g_atk`` or ``beta_atk`` is missing.
    """
    required("fused_recurrent_precond_gated_delta_rule", g_atk=g_atk, beta_atk=beta_atk)
    assert g_atk is not None
    assert beta_atk is not None
    decay = g if gk is None else gk if g is None else gk + g[..., None]
    beta = torch.ones_like(v[..., 0]) if beta is None else beta
    by = Preconditioner(g_atk, beta_atk, x, eps, log_atk_scale)
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    keys, squares = preconditioned(q, k, by, cu_seqlens, initial_A_state, output_final_state)
    how = Layout(cu_seqlens, state_v_first=transpose_state_layout)
    op, tokens = scan_of(keys, v, decay, beta, gv)
    return *how.run(op, tokens, initial_state, output_final_state, scale=scale), squares
