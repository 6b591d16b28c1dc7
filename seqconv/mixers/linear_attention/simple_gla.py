"""Simple gated linear attention: one decay per head and token.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    q, k, v = silu(conv(W_q x, W_k x, W_v x))
    log α = logsigmoid(W_α x + b) / τ        one number per head
    S_t = α_t S_{t-1} + k_t v_t^T            o_t = d_k^{-1/2} S_t^T q_t
    y = W_o (norm(o) ⊙ silu(W_g x))          norm over each head

Source: Yang et al. 2024 (arXiv 2312.06635, section on gates per head) and ``fla/layers/simple_gla.py`` of
fla-org/flash-linear-attention at 16c38300; the recurrence is that of Mamba-2 (Dao and Gu 2024), whose results are the
published ones for a decay per head. With fewer key-value heads than query heads, neighbouring query heads read the
same keys and values, each with a decay of its own.
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...registry import register
from .attention_layer import GatedAttentionLayer, GatedAttentionOptions, Heads, repeat_heads


@register(
    "simple_gla",
    examples=(
        {"num_heads": 2, "d_conv": None, "gate_logit_normalizer": 1, "feature_map": "relu", "expand_v": 2.0},
        {"num_kv_heads": 2, "conv_bias": True, "norm_affine": False, "use_output_gate": False},
    ),
)
class SimpleGatedLinearAttention(GatedAttentionLayer):
    """Linear attention with a data-dependent decay per head.

    Args:
        d_model: width of inputs and outputs.
        expand_k: key channels of all heads per input channel.
        expand_v: value channels of all heads per input channel.
        num_heads: query heads.
        d_conv: taps of a short convolution over queries, keys and values, with SiLU; ``None`` for none.
        gate_logit_normalizer: τ; the larger, the slower the initial decay.
        num_kv_heads ... norm_eps: see :class:`~seqconv.mixers.linear_attention.attention_layer.GatedAttentionOptions`.

    Raises:
        ValueError: an unknown activation; heads that do not divide the widths.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand_k: int | float = 1.0,
        expand_v: int | float = 1.0,
        num_heads: int = 4,
        d_conv: int | None = 4,
        gate_logit_normalizer: int | float = 16,
        **options: Unpack[GatedAttentionOptions],
    ) -> None:
        super().__init__(d_model, expand_k=expand_k, expand_v=expand_v, num_heads=num_heads, d_conv=d_conv, **options)
        self.gate_logit_normalizer = gate_logit_normalizer
        self.gk_proj = Linear(d_model, num_heads)

    def _log_decay(self, x: Tensor) -> Tensor:
        logits = self.gk_proj(x)
        return F.logsigmoid(logits.to(accumulation_dtype(logits))) / self.gate_logit_normalizer

    def _heads(self, qkv: Tensor, x: Tensor, position: Tensor | None) -> Heads:
        return repeat_heads(super()._heads(qkv, x, position), self.heads // self.kv_heads)

    def _state_size(self) -> tuple[int, int, int]:
        return self.heads, self.d_k, self.d_v
