"""RWKV-4, RWKV-6 and HGRN under fla's signatures.

Sources: ``fla/ops/{rwkv4,rwkv6,hgrn}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import gated_linear_attention, linear_scan

from ...mixers.linear_attention.rwkv.rwkv4 import average
from .layout import Layout, layout

Result = tuple[Tensor, Tensor | None]


def chunk_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """RWKV-6: a token reads the state before it, and itself with a weight.

    Args:
        r, k, w: (batch, length, heads, d_k); ``w`` is the logarithm of the decay.
        v: (batch, length, heads, d_v).
        u: weight of a token for itself, (heads, d_k).
        scale: of ``r``; ``d_k ** -0.5`` if not given.
        initial_state: (sequences, heads, d_k, d_v).
        output_final_state: also return the last state.
        cu_seqlens: bounds of sequences packed into a batch of one.
        cu_seqlens_cpu: a hint.
    """
    how = layout("chunk_rwkv6", cu_seqlens, kwargs)
    tokens: dict[str, Tensor | None] = {"q": r, "k": k, "v": v, "log_decay": w}
    return how.run(gated_linear_attention, tokens, initial_state, output_final_state, scale=scale, bonus=u)


def fused_recurrent_rwkv6(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_rwkv6` in either direction."""
    how = layout("fused_recurrent_rwkv6", cu_seqlens, kwargs, reverse=reverse)
    tokens: dict[str, Tensor | None] = {"q": r, "k": k, "v": v, "log_decay": w}
    return how.run(gated_linear_attention, tokens, initial_state, output_final_state, scale=scale, bonus=u)


def fused_recurrent_hgrn(
    x: Tensor,
    g: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Result:
    """HGRN: ``h[t] = exp(g[t]) h[t-1] + x[t]`` per channel.

    Args:
        x, g: (batch, length, channels).
        initial_state: (sequences, channels).
        output_final_state: also return the last state.
        cu_seqlens: bounds of sequences packed into a batch of one.
    """
    how = Layout(cu_seqlens)
    return how.run(linear_scan, {"a": g.exp(), "x": x}, initial_state, output_final_state)


chunk_hgrn = fused_recurrent_hgrn


def fused_recurrent_rwkv4(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """RWKV-4: averages of values, weighted by keys and age.

    Args:
        w: logarithm of the rate of decay, (channels).
        u: weight of a token for itself, (channels).
        k, v: (batch, length, channels).
        state: numerator, denominator and their exponent, (batch, 3, 1, channels).

    Returns:
        (batch, length, channels) and the last state.
    """
    wide = torch.promote_types(torch.promote_types(k.dtype, w.dtype), torch.float32)
    sums, exponent = state[:, :2, 0].to(wide), state[:, 2, 0].to(wide)
    o, after, last = average(k.to(wide), v.to(wide), w, u.to(wide), sums, exponent)
    return o.to(k.dtype), torch.cat([after, last[:, None]], dim=1)[:, :, None]
