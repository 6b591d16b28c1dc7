"""Linear attention under fla's signatures: gated, with a decay per head, without a decay.

Sources: ``fla/ops/{gla,simple_gla,linear_attn}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels import gated_linear_attention
from seqconv_kernels._core.errors import argument_error

from .layout import Layout, layout
from .per_value import recurrence

DENOMINATOR_EPS = 1e-10
"""Added to the denominator of normalised linear attention."""

State = Tensor | tuple[Tensor | None, Tensor]
Result = tuple[Tensor, Tensor | None]


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> Result:
    """Gated linear attention with a decay per channel of the keys.

    Args:
        q, k, g: (batch, length, heads, d_k); ``g`` is the logarithm of the decay.
        v: (batch, length, heads, d_v).
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, heads, d_k, d_v), or with the values first.
        output_final_state: also return the last state.
        state_v_first: states are (sequences, heads, d_v, d_k).
        cu_seqlens: bounds of sequences packed into a batch of one.
        cu_seqlens_cpu: a hint.

    Returns:
        (batch, length, heads, d_v) and the last state or ``None``.
    """
    how = Layout(cu_seqlens, state_v_first=state_v_first)
    tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "log_decay": g}
    return how.run(gated_linear_attention, tokens, initial_state, output_final_state, scale=scale)


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_gla` in either direction, with a decay ``gv`` (batch, length, heads, d_v) of the values too."""
    how = layout("fused_recurrent_gla", cu_seqlens, kwargs, reverse=reverse, state_v_first=state_v_first)
    tokens: dict[str, Tensor | None] = {"q": q, "k": k, "v": v, "log_decay": gk, "gv": gv}
    op = gated_linear_attention if gv is None else recurrence
    return how.run(op, tokens, initial_state, output_final_state, scale=scale)


fused_chunk_gla = chunk_gla


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """Linear attention with one decay per head: ``g`` (batch, length, heads), ``g_gamma`` (heads), both or none."""
    how = layout("chunk_simple_gla", cu_seqlens, kwargs, state_v_first=state_v_first)
    return simple(how, q, k, v, g, g_gamma, scale, initial_state, output_final_state)


def fused_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_simple_gla` in either direction."""
    how = layout("fused_recurrent_simple_gla", cu_seqlens, kwargs, reverse=reverse, state_v_first=state_v_first)
    return simple(how, q, k, v, g, g_gamma, scale, initial_state, output_final_state)


def fused_chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """:func:`chunk_simple_gla`."""
    return simple(Layout(cu_seqlens), q, k, v, g, g_gamma, scale, initial_state, output_final_state)


def parallel_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_simple_gla` without states; the second result is the attention weights or ``None``.

    Raises:
        ValueError: ``output_attentions`` with packed sequences, as in the original.
    """
    how = layout("parallel_simple_gla", cu_seqlens, kwargs)
    o, _ = simple(how, q, k, v, g, None, scale, None, False)
    return o, attention_weights("parallel_simple_gla", how, q, k, g, scale) if output_attentions else None


def chunk_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State | None = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State | None]:
    """Linear attention, without a decay.

    Args:
        q, k: (batch, length, heads, d_k).
        v: (batch, length, heads, d_v).
        scale: of the queries; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, heads, d_k, d_v); with ``normalize`` a pair of it and of the sum of the keys before,
            (sequences, 1, heads, d_k).
        output_final_state: also return the last state.
        normalize: divide by ``q[t]`` times the sum of the keys up to t.
        cu_seqlens: bounds of sequences packed into a batch of one.

    Returns:
        o, and the last state; with ``normalize`` a pair whose second part, the sum of the keys, is always there.
    """
    return _linear(Layout(cu_seqlens), q, k, v, scale, initial_state, output_final_state, normalize)


fused_chunk_linear_attn = chunk_linear_attn


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: State | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, State | None]:
    """:func:`chunk_linear_attn` in either direction."""
    how = Layout(cu_seqlens, reverse)
    return _linear(how, q, k, v, scale, initial_state, output_final_state, normalize)


def simple(
    how: Layout,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    g_gamma: Tensor | None,
    scale: float | None,
    state: Tensor | None,
    output_final_state: bool,
) -> Result:
    """Linear attention with a decay per head: per token, constant, both or none."""
    if g is not None and g_gamma is not None:
        g, g_gamma = g + g_gamma, None
    tokens = {"q": q, "k": k, "v": v, "log_decay": g}
    return how.run(gated_linear_attention, tokens, state, output_final_state, scale=scale, g_gamma=g_gamma)


def _linear(
    how: Layout,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    state: State | None,
    output_final_state: bool,
    normalize: bool,
) -> tuple[Tensor, State | None]:
    """With ``normalize`` a value of one, in float32, carries the denominator and the sum of the keys along."""
    if not normalize:
        assert not isinstance(state, tuple)
        return simple(how, q, k, v, None, None, scale, state, output_final_state)
    values, keys = state if isinstance(state, tuple) else (state, None)
    wide = torch.promote_types(v.dtype, torch.float32)
    if values is not None or keys is not None:
        values = _zeros(how, k, v, wide) if values is None else values.to(wide)
        column = torch.zeros_like(values[..., :1]) if keys is None else keys[:, 0, :, :, None].to(wide)
        values = torch.cat([values, column], dim=-1)
    o, last = simple(how, q, k, F.pad(v.to(wide), (0, 1), value=1.0), None, None, scale, values, True)
    assert last is not None
    o = (o[..., :-1] / (o[..., -1:] + DENOMINATOR_EPS)).to(v.dtype)
    return o, (last[..., :-1] if output_final_state else None, last[..., -1][:, None])


def _zeros(how: Layout, k: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    rows = k.shape[0] if how.cu_seqlens is None else len(how.cu_seqlens) - 1
    return k.new_zeros(rows, k.shape[2], k.shape[3], v.shape[3], dtype=dtype)


def attention_weights(
    function: str, how: Layout, q: Tensor, k: Tensor, g: Tensor | None, scale: float | None
) -> Tensor:
    """``scale (q[t] . k[s]) exp(g[s + 1] + ... + g[t])`` for s <= t, else zero: (batch, heads, length, length).

    Raises:
        ValueError: packed sequences.
    """
    if how.cu_seqlens is not None:
        raise argument_error(function, "output_attentions with cu_seqlens", "one of them", "unpack the sequences")
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("bthk,bshk->bhts", q, k) * scale
    if g is not None:
        total = g.to(torch.promote_types(g.dtype, torch.float32)).cumsum(1).mT
        future = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        scores = scores * (total[..., None] - total[..., None, :]).masked_fill(future, -torch.inf).exp()
    return scores.tril()
