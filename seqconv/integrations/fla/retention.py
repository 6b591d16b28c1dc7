"""Linear attention with a constant decay per head under fla's signatures: retention and lightning attention.

Sources: ``fla/ops/{retention,lightning_attn}`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Any

import torch
from torch import Tensor

from .layout import layout
from .linear_attention import attention_weights, simple

Result = tuple[Tensor, Tensor | None]


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """Retention: decays ``1 - 2 ** (-5 - head)``."""
    how = layout("chunk_retention", cu_seqlens, kwargs)
    return simple(how, q, k, v, None, _retention(q), scale, initial_state, output_final_state)


fused_chunk_retention = chunk_retention


def fused_recurrent_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_retention` in either direction."""
    how = layout("fused_recurrent_retention", cu_seqlens, kwargs, reverse=reverse, state_v_first=state_v_first)
    return simple(how, q, k, v, None, _retention(q), scale, initial_state, output_final_state)


def parallel_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_retention` without states; the second result is the attention weights or ``None``.

    Raises:
        ValueError: ``output_attentions`` with packed sequences.
    """
    how = layout("parallel_retention", cu_seqlens, kwargs)
    decay = _retention(q)
    o, _ = simple(how, q, k, v, None, decay, scale, None, False)
    if not output_attentions:
        return o, None
    return o, attention_weights("parallel_retention", how, q, k, decay.expand(q.shape[:3]), scale)


def chunk_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """Lightning attention: decays ``exp(-8 head / heads (1 - layer_idx / num_layers))``."""
    how = layout("chunk_lightning_attn", cu_seqlens, kwargs)
    gamma = _lightning(q, layer_idx, num_layers)
    return simple(how, q, k, v, None, gamma, scale, initial_state, output_final_state)


def fused_recurrent_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Result:
    """:func:`chunk_lightning_attn` in either direction."""
    how = layout("fused_recurrent_lightning_attn", cu_seqlens, kwargs, reverse=reverse)
    gamma = _lightning(q, layer_idx, num_layers)
    return simple(how, q, k, v, None, gamma, scale, initial_state, output_final_state)


def _retention(q: Tensor) -> Tensor:
    return torch.log1p(-torch.exp2(-5.0 - _heads(q)))


def _lightning(q: Tensor, layer_idx: int, num_layers: int) -> Tensor:
    return -(8 / q.shape[2] * (1 - layer_idx / num_layers)) * _heads(q)


def _heads(q: Tensor) -> Tensor:
    return torch.arange(q.shape[2], device=q.device, dtype=torch.promote_types(q.dtype, torch.float32))
