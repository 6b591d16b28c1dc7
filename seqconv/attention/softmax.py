"""Softmax attention of several heads in two implementations that agree.

Equation, per head: ``o_t = sum_s softmax_s(q_t · k_s / √head_dim) v_s`` over the tokens s that t sees.
``"sdpa"`` is PyTorch's scaled_dot_product_attention; ``"eager"`` writes the weights out, in float32 at least.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from seqconv_kernels._core.precision import accumulation_dtype

from .pattern import View, is_plain, visible

AttentionImplementation = Literal["sdpa", "eager"]
IMPLEMENTATIONS: tuple[AttentionImplementation, ...] = ("sdpa", "eager")


def softmax_attention(
    q: Float[Tensor, "batch blocks queries heads head_dim"],
    k: Float[Tensor, "batch blocks keys groups head_dim"],
    v: Float[Tensor, "batch blocks keys groups d_v"],
    view: View,
    *,
    dropout: float,
    implementation: AttentionImplementation,
) -> Float[Tensor, "batch blocks queries heads d_v"]:
    """Outputs of all heads; ``heads / groups`` query heads share a head of keys and values.

    Args:
        view: which keys each query sees.
        dropout: of the weights.
        implementation: one of :data:`IMPLEMENTATIONS`.
    """
    batch, blocks, queries = q.shape[:3]
    plain, mask = is_plain(view), None
    if implementation == "eager" or not plain:
        mask = visible(view).expand(batch, blocks, queries, k.shape[2]).flatten(0, 1)[:, None]
    q, k, v = (t.to(q.dtype).flatten(0, 1).transpose(1, 2) for t in (q, k, v))
    if mask is not None and implementation == "eager":
        y = _eager(q, k, v, mask, dropout)
    else:
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=plain and view.causal,
            enable_gqa=k.shape[1] != q.shape[1],
        )
    heads: Tensor = y.transpose(1, 2).unflatten(0, (batch, blocks))
    return heads


def _eager(
    q: Float[Tensor, "rows heads queries head_dim"],
    k: Float[Tensor, "rows groups keys head_dim"],
    v: Float[Tensor, "rows groups keys d_v"],
    mask: Bool[Tensor, "rows 1 queries keys"],
    dropout: float,
) -> Float[Tensor, "rows heads queries d_v"]:
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = (q @ k.transpose(-1, -2)).to(accumulation_dtype(q)) * q.shape[-1] ** -0.5
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
    return F.dropout(weights, dropout).to(v.dtype) @ v
