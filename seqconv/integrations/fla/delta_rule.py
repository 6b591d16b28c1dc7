"""The delta rule, gated or not, and Kimi Delta Attention under fla's signatures.

Sources: ``fla/ops/{delta_rule,gated_delta_rule,kda}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import delta_rule, delta_rule_step
from seqconv_kernels._core.errors import argument_error

from ..arguments import unserved
from .decoding import Pool, Run, move_on
from .gates import decay_of, states_before_chunks, strength_of, unit_lengths
from .layout import HINTS, layout
from .per_value import recurrence

Result = tuple[Tensor, Tensor | None]

_GATE_HINTS = tuple(hint for hint in HINTS if hint != "lower_bound")
"""Where a gate is computed, its lower bound changes the result."""


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """The delta rule without a decay.

    Args:
        q, k: (batch, length, heads, d_k).
        v: (batch, length, heads, d_v).
        beta: (batch, length, heads), or with an axis d_v.
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, heads, d_k, d_v).
        output_final_state: also return the last state.
        use_qk_l2norm_in_kernel: give queries and keys unit length first.
        cu_seqlens: bounds of sequences packed into a batch of one.
        cu_seqlens_cpu: a hint.

    Returns:
        (batch, length, heads, d_v) and the last state or ``None``.
    """
    how = layout("chunk_delta_rule", cu_seqlens, kwargs)
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "beta": beta}
    return how.run(delta_rule, tokens, initial_state, output_final_state, scale=scale)


def fused_recurrent_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """:func:`chunk_delta_rule`, with a beta of one if it is not given."""
    beta = torch.ones_like(v[..., 0]) if beta is None else beta
    return chunk_delta_rule(
        q, k, v, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, cu_seqlens
    )


fused_chunk_delta_rule = chunk_delta_rule


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    cp_context: Any = None,
    **kwargs: Any,
) -> Result:
    """The delta rule with a decay per head.

    Args:
        q, k: (batch, length, heads, d_k).
        v: (batch, length, v_heads, d_v), a multiple of the heads.
        g: logarithm of the decay, (batch, length, v_heads); with ``use_gate_in_kernel`` the input of the gate.
        beta: (batch, length, v_heads), or with an axis d_v.
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, v_heads, d_k, d_v), or with the values first.
        output_final_state: also return the last state.
        use_qk_l2norm_in_kernel: give queries and keys unit length first.
        use_beta_sigmoid_in_kernel: ``beta`` is before its sigmoid.
        allow_neg_eigval: twice the sigmoid.
        state_v_first: states are (sequences, v_heads, d_v, d_k).
        cu_seqlens: bounds of sequences packed into a batch of one.
        cu_seqlens_cpu, chunk_indices: hints.
        cp_context: not served.
        kwargs: ``use_gate_in_kernel`` with ``A_log`` and ``dt_bias`` (v_heads): the decay is ``-exp(A_log) softplus(g +
            dt_bias)``; hints.

    Returns:
        (batch, length, v_heads, d_v) and the last state or ``None``.

    Raises:
        ValueError: an argument that is not served, by its name.
    """
    name = "chunk_gated_delta_rule"
    unserved(name, cp_context=cp_context)
    gate = {key: kwargs.pop(key, None) for key in ("use_gate_in_kernel", "A_log", "dt_bias")}
    how = layout(name, cu_seqlens, kwargs, state_v_first=state_v_first)
    decay = decay_of(name, g, gate["A_log"], gate["dt_bias"], None) if gate["use_gate_in_kernel"] else g
    strength = strength_of(name, beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "beta": strength, "log_decay": decay}
    return how.run(delta_rule, tokens, initial_state, output_final_state, scale=scale)


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_gated_delta_rule` with decays per head (``g``), per channel of the keys (``gk``, (..., d_k)) and of
    the values (``gv``, (..., d_v)), any of them; ``beta`` is one if not given.

    ``ssm_state_indices``, ``num_accepted_tokens`` and ``inplace_final_state``, which vLLM's function of this name has,
    are taken as keywords, with the meaning of :func:`~.decoding.fused_recurrent_kda_fwd`; a pool is moved on in place.
    """
    name = "fused_recurrent_gated_delta_rule"
    rows, accepted = kwargs.pop("ssm_state_indices", None), kwargs.pop("num_accepted_tokens", None)
    pool = Pool(initial_state, kwargs.pop("inplace_final_state", rows is not None), state_v_first, rows, accepted)
    how = layout(name, cu_seqlens, kwargs, state_v_first=state_v_first)
    if g is not None and use_gate_in_kernel:
        g = decay_of(name, g, A_log, dt_bias, None)
    decay = g if gk is None else gk if g is None else gk + g[..., None]
    beta = torch.ones_like(v[..., 0]) if beta is None else beta
    strength = strength_of(name, beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    tokens = {"q": q, "k": k, "v": v, "beta": strength, "log_decay": decay, "gv": gv}
    if rows is not None and gv is not None:
        raise argument_error(name, "gv with ssm_state_indices", "either of them", "leave out gv")
    op = delta_rule if gv is None else recurrence
    run = Run(op, delta_rule_step, tokens, how, {"scale": scale})
    return move_on(name, run, pool._replace(v_first=how.state_v_first), output_final_state, None)


chunk_gdn = chunk_gated_delta_rule
fused_recurrent_gdn = fused_recurrent_gated_delta_rule


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    cp_context: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
    """Kimi Delta Attention: the delta rule with a decay per channel of the keys.

    Args:
        q, k: (batch, length, heads, d_k).
        v: (batch, length, v_heads, d_v), a multiple of the heads.
        g: logarithm of the decay, (batch, length, v_heads, d_k); with ``use_gate_in_kernel`` the input of the gate.
        beta, scale, initial_state, output_final_state, cu_seqlens, cp_context: as for :func:`chunk_gated_delta_rule`.
        use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first: as there.
        use_gate_in_kernel: compute the decay from ``g``, ``A_log`` (v_heads) and ``dt_bias`` (v_heads * d_k).
        lower_bound: of the gate: the decay is then ``lower_bound * sigmoid(exp(A_log) (g + dt_bias))``.
        return_intermediate_states: also return the state before each chunk, (batch, chunks, v_heads, d_k, d_v), of
            packed sequences one after the other, typed like ``k``.
        safe_gate, disable_recompute, cu_seqlens_cpu: hints.
        kwargs: ``A_log`` and ``dt_bias``; ``chunk_size``, 64 if not given.

    Raises:
        ValueError: an argument that is not served, by its name.
    """
    name = "chunk_kda"
    unserved(name, cp_context=cp_context)
    A_log, dt_bias, size = (kwargs.pop(key, None) for key in ("A_log", "dt_bias", "chunk_size"))
    how = layout(name, cu_seqlens, kwargs, state_v_first=state_v_first, hints=_GATE_HINTS)
    decay = decay_of(name, g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    strength, dtype = strength_of(name, beta, use_beta_sigmoid_in_kernel, allow_neg_eigval), k.dtype
    q, k = unit_lengths(q, k, use_qk_l2norm_in_kernel)
    tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "beta": strength, "log_decay": decay}
    o, last = how.run(delta_rule, tokens, initial_state, output_final_state, scale=scale)
    if not return_intermediate_states:
        return o, last
    before = states_before_chunks(how, tokens, initial_state, size or DEFAULT_CHUNK)
    return o, last, before.to(dtype)


DEFAULT_CHUNK = 64
"""Of ``chunk_kda``."""


def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_kda`."""
    o, last, *_ = chunk_kda(
        q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_gate_in_kernel,
        use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound=lower_bound, state_v_first=state_v_first,
        cu_seqlens=cu_seqlens, A_log=A_log, dt_bias=dt_bias, **kwargs,
    )  # fmt: skip
    return o, last
