"""Gated linear attention: linear attention whose state decays by a factor per key channel and token.

Equation, per head, with a state ``S`` of (d_k, d_v)::

    q, k, v = W_q x, W_k x, W_v x            (optionally through a short convolution with SiLU)
    log α = logsigmoid(W_2 W_1 x + b) / τ    (optionally bounded below)
    S_t = diag(α_t) S_{t-1} + k_t v_t^T      o_t = d_k^{-1/2} S_t^T q_t
    y = W_o (norm(o) ⊙ φ(W_g x))             norm over each head

Source: Yang et al. 2024 (arXiv 2312.06635) and the code of fla-org/flash-linear-attention. With fewer key-value
heads than query heads, neighbouring query heads read the same state.
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...registry import register
from .attention_layer import GatedAttentionLayer, GatedAttentionOptions


@register(
    "gla",
    examples=(
        {"num_heads": 2, "expand_k": 1.0, "gate_logit_normalizer": 1, "feature_map": "relu"},
        {"expand_v": 2.0, "num_heads": 4, "num_kv_heads": 2, "d_conv": 4, "conv_bias": True, "clamp_min": -0.05},
        {"num_heads": 2, "use_output_gate": False, "norm_affine": False, "gate_low_rank_dim": 3},
    ),
)
class GatedLinearAttention(GatedAttentionLayer):
    """Linear attention with a data-dependent decay per key channel.

    Args:
        d_model: width of inputs and outputs.
        expand_k: key channels of all heads per input channel.
        expand_v: value channels of all heads per input channel.
        num_heads: query heads.
        d_conv: taps of a short convolution over queries, keys and values, with SiLU; none if not given.
        gate_logit_normalizer: τ; the larger, the slower the initial decay.
        gate_low_rank_dim: width of the bottleneck in front of the decay.
        clamp_min: least logarithm of the decay.
        num_kv_heads ... norm_eps: see :class:`~seqconv.mixers.linear_attention.attention_layer.GatedAttentionOptions`.

    Raises:
        ValueError: an unknown activation; heads that do not divide the widths.
    """

    def __init__(
        self,
        d_model: int,
        *,
        expand_k: int | float = 0.5,
        expand_v: int | float = 1.0,
        num_heads: int = 4,
        d_conv: int | None = None,
        gate_logit_normalizer: int | float = 16,
        gate_low_rank_dim: int = 16,
        clamp_min: float | None = None,
        **options: Unpack[GatedAttentionOptions],
    ) -> None:
        super().__init__(d_model, expand_k=expand_k, expand_v=expand_v, num_heads=num_heads, d_conv=d_conv, **options)
        self.gate_logit_normalizer, self.clamp_min = gate_logit_normalizer, clamp_min
        self.gk_proj = nn.Sequential(
            Linear(d_model, gate_low_rank_dim, bias=False), Linear(gate_low_rank_dim, self.widths[1])
        )

    def _log_decay(self, x: Tensor) -> Tensor:
        logits = self.gk_proj(x)
        log_decay = F.logsigmoid(logits.to(accumulation_dtype(logits))) / self.gate_logit_normalizer
        if self.clamp_min is not None:
            log_decay = log_decay.clamp(min=self.clamp_min)
        per_head: Tensor = log_decay.unflatten(-1, (self.kv_heads, -1))
        return per_head
