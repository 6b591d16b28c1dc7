"""Multi-scale retention (RetNet): linear attention with rotary positions and a constant decay per head.

Equation, per head h = 0, 1, … with a state ``S`` of (d_k, d_v) and the rotation ``R_t`` of a head to position t::

    q, k, v = R_t W_q x, R_t W_k x, W_v x        γ_h = 1 - 2^(-5-h)
    S_t = γ_h S_{t-1} + k_t v_t^T                o_t = d_k^{-1/2} S_t^T q_t
    y = W_o (norm(o) ⊙ silu(W_g x))              norm over each head

Scores depend on the distance of two tokens alone, ``γ^(i-j) (R_{i-j} q_i) · k_j``: positions may start anywhere.

Source: Sun et al. 2023 (arXiv 2307.08621; at 6.7B parameters and 8k tokens 8.4 times the decoding throughput of a
Transformer with a cache, abstract) and ``fla/layers/multiscale_retention.py`` of fla-org/flash-linear-attention at
17423c96. microsoft/torchscale (``torchscale/component/multiscale_retention.py`` at 05a96283) divides the scores of a
token by the root of the sum of their decays and by the magnitude of their sum, at least 1, through which no gradient
passes::

    o_t ← o_t / (√s max(|Σ_j score_j| / √s, 1)),    s = Σ_{n ≤ t} γ^n

The norm over each head takes that out again but for its ε; ``normalize=True`` does it. At 4d1e0e82 torchscale divides
by the sum of the magnitudes of the scores, at least 1: outputs then differ by what ε makes of it, about 1e-6.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...attention.rotary import rotate
from ...registry import register
from .attention_layer import GatedAttentionLayer, GatedAttentionOptions, Heads, repeat_heads

PROJECTION_GAIN = 2**-2.5
"""Of Xavier's initial values of queries, keys, values and gate, as in the paper's code."""


@register(
    "retnet",
    examples=(
        {"num_heads": 2, "expand_v": 1.0, "d_conv": 4, "feature_map": "relu"},
        {"num_kv_heads": 2, "norm_affine": False, "use_output_gate": False, "rotary_base": 100.0},
        {"num_heads": 2, "normalize": True},
    ),
)
class RetNet(GatedAttentionLayer):
    """Linear attention with rotary positions and a constant decay per head.

    Args:
        d_model: width of inputs and outputs.
        expand_k: key channels of all heads per input channel.
        expand_v: value channels of all heads per input channel.
        num_heads: query heads.
        d_conv: taps of a short convolution over queries, keys and values, with SiLU; none if not given.
        normalize: divide by the sums of decays and scores.
        rotary_base: the slowest pair of channels turns by about 1/base per token.
        num_kv_heads ... norm_eps: see :class:`~seqconv.mixers.linear_attention.attention_layer.GatedAttentionOptions`.

    Raises:
        ValueError: an unknown activation; heads that do not divide the widths, or of an odd width.
    """

    counts_positions = True

    def __init__(
        self,
        d_model: int,
        *,
        expand_k: int | float = 1.0,
        expand_v: int | float = 2.0,
        num_heads: int = 4,
        d_conv: int | None = None,
        normalize: bool = False,
        rotary_base: float = 10000.0,
        **options: Unpack[GatedAttentionOptions],
    ) -> None:
        super().__init__(d_model, expand_k=expand_k, expand_v=expand_v, num_heads=num_heads, d_conv=d_conv, **options)
        if self.d_k % 2 or rotary_base <= 0:
            got = f"{self.d_k} key channels per head, rotary_base={rotary_base}"
            raise argument_error(
                "retnet mixer", got, "an even number and a base above 0", "change num_heads or expand_k"
            )
        self.rotary_base, self.normalize = rotary_base, normalize
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier's uniform values, small ones for all projections but the last."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.g_proj):
            if projection is not None:
                nn.init.xavier_uniform_(projection.weight, gain=PROJECTION_GAIN)
        nn.init.xavier_uniform_(self.o_proj.weight)

    def _constant_decay(self, like: Tensor) -> Tensor:
        head = torch.arange(self.heads, device=like.device, dtype=accumulation_dtype(like))
        return torch.log1p(-torch.exp2(-5.0 - head))

    def _heads(self, qkv: Tensor, x: Tensor, position: Tensor | None) -> Heads:
        heads = super()._heads(qkv, x, position)
        assert position is not None
        turned = heads._replace(
            q=rotate(heads.q, position, self.rotary_base), k=rotate(heads.k, position, self.rotary_base)
        )
        repeated = repeat_heads(turned, self.heads // self.kv_heads)
        if not self.normalize:
            return repeated
        ones = torch.ones_like(repeated.v[..., :1])  # a value of one: the sum of the scores
        return repeated._replace(v=torch.cat([repeated.v, ones], dim=-1))

    def _read(self, o: Tensor, position: Tensor | None) -> Tensor:
        if not self.normalize:
            return o
        assert position is not None
        log_decay = self._constant_decay(o)
        decays = torch.expm1(log_decay * (position[..., None].clamp(min=0) + 1)) / torch.expm1(log_decay)
        root = decays.sqrt()[..., None]
        scores = (o[..., -1:].detach() / root).abs().clamp(min=1.0)
        return (o[..., :-1] / (root * scores)).to(o.dtype)

    def _state_size(self) -> tuple[int, int, int]:
        return self.heads, self.d_k, self.d_v + self.normalize
