"""Gated DeltaNet-2 under fla's signatures: erase gates per channel of the keys, write gates per channel of the values.

    S' = diag(exp(g[t])) S[t-1]        S[t] = S' + k[t] (w[t] v[t] - S'^T (b[t] k[t]))^T

It runs on the generalised delta rule, which reads the state before its decay: ``a = -exp(g) b k``.

Source: ``fla/ops/gdn2`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import dplr_delta_rule, dplr_delta_rule_step

from ..arguments import no_others
from . import decoding
from .gates import decay_of, states_before_chunks, unit_lengths
from .layout import HINTS, Layout, layout

Result = tuple[Tensor, Tensor | None]

_HINTS = tuple(hint for hint in HINTS if hint != "lower_bound")
DEFAULT_CHUNK = 64
"""Of ``chunk_gdn2``."""


def chunk_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    return_intermediate_states: bool = False,
    state_v_first: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
    """The delta rule with gates of its own for what is erased and for what is written.

    Args:
        q, k: (batch, length, heads, d_k).
        v: (batch, length, v_heads, d_v), a multiple of the heads.
        g: logarithm of the decay, (batch, length, v_heads, d_k); with ``use_gate_in_kernel`` the input of the gate.
        b: erase gate, like ``g``.
        w: write gate, like ``v``.
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, v_heads, d_k, d_v), or with the values first.
        output_final_state: also return the last state.
        use_qk_l2norm_in_kernel: give queries and keys unit length first.
        use_gate_in_kernel: compute the decay from ``g``, ``A_log`` (v_heads) and ``dt_bias`` (v_heads * d_k).
        cu_seqlens: bounds of sequences packed into a batch of one.
        lower_bound: of the gate: the decay is then ``lower_bound * sigmoid(exp(A_log) (g + dt_bias))``.
        return_intermediate_states: also return the state before each chunk, (batch, chunks, v_heads, d_k, d_v).
        state_v_first: states are (sequences, v_heads, d_v, d_k).
        cu_seqlens_cpu, safe_gate, disable_recompute: hints.
        kwargs: ``A_log`` and ``dt_bias``; ``chunk_size``, 64 if not given.

    Returns:
        (batch, length, v_heads, d_v) and the last state or ``None``.

    Raises:
        ValueError: an argument that is not served, by its name.
    """
    name = "chunk_gdn2"
    A_log, dt_bias, size = (kwargs.pop(key, None) for key in ("A_log", "dt_bias", "chunk_size"))
    how = layout(name, cu_seqlens, kwargs, state_v_first=state_v_first, hints=_HINTS)
    decay = decay_of(name, g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    tokens = _tokens(*unit_lengths(q, k, use_qk_l2norm_in_kernel), v, decay, b, w)
    o, last = how.run(dplr_delta_rule, tokens, initial_state, output_final_state, scale=scale)
    if not return_intermediate_states:
        return o, last
    before = states_before_chunks(how, tokens, initial_state, size or DEFAULT_CHUNK, dplr_delta_rule)
    return o, last, before.to(k.dtype)


def fused_recurrent_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_gdn2`."""
    o, last, *_ = chunk_gdn2(
        q, k, v, g, b, w, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_gate_in_kernel,
        cu_seqlens, lower_bound=lower_bound, state_v_first=state_v_first, A_log=A_log, dt_bias=dt_bias, **kwargs,
    )  # fmt: skip
    return o, last


def fused_recurrent_gdn2_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    scale: float | None = None,
    output_final_state: bool = False,
    inplace_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    ssm_state_indices: Tensor | None = None,
    num_accepted_tokens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    lower_bound: float | None = None,
    out: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_gdn2` with the states of a pool moved on in place, as :func:`~.decoding.fused_recurrent_kda_fwd`.

    Args:
        q, k, v, g, b, w, scale, state_v_first, cu_seqlens: as for :func:`chunk_gdn2`.
        A_log, dt_bias, use_qk_l2norm_in_kernel, use_gate_in_kernel, lower_bound: as there.
        initial_state: states of the sequences, or a pool of them.
        output_final_state: return the last states; always done with ``inplace_final_state``.
        inplace_final_state: write the last states to ``initial_state``.
        ssm_state_indices, num_accepted_tokens, out: as for :func:`~.decoding.fused_recurrent_kda_fwd`.

    Raises:
        ValueError: a pool without ``inplace_final_state``; an argument that is not served, by its name.
    """
    name = "fused_recurrent_gdn2_fwd"
    no_others(name, kwargs)
    decay = decay_of(name, g, A_log, dt_bias, lower_bound) if use_gate_in_kernel else g
    tokens = _tokens(*unit_lengths(q, k, use_qk_l2norm_in_kernel), v, decay, b, w)
    pool = decoding.Pool(initial_state, inplace_final_state, state_v_first, ssm_state_indices, num_accepted_tokens)
    how = Layout(cu_seqlens, state_v_first=state_v_first)
    run = decoding.Run(dplr_delta_rule, dplr_delta_rule_step, tokens, how, {"scale": scale})
    return decoding.move_on(name, run, pool, output_final_state, out)


def _tokens(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, b: Tensor, w: Tensor) -> dict[str, Tensor | None]:
    """Arguments of the op."""
    decay = decay.to(torch.promote_types(decay.dtype, torch.float32))
    keys = k.repeat_interleave(b.shape[2] // k.shape[2], dim=2)
    read = -(decay.exp() * b * keys).to(k.dtype)
    return {"q": q, "k": k, "v": (w * v).to(v.dtype), "a": read, "log_decay": decay}
