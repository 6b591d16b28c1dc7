"""Comba: the delta rule with a feedback of its own, read before the decay, and queries that are corrected by it.

The layer of :mod:`.delta_layer` with the decay of
:mod:`.scalar_decay` and, per head, before q, k and p get unit length::

    p = σ(δ) k                q ← q - D p
    S_t = α_t S_{t-1} + k_t β_t (v_t - S_{t-1}^T p_t)^T          gate = σ(W_g x)

The state is read before it decays, unlike in gated DeltaNet. Since p is normalised, σ(δ) acts on the queries alone. It
runs on the generalised delta rule with ``a = -p`` and keys ``β k``.

Source: Hu et al. 2025 (arXiv 2506.02475), "Comba: Improving Bilinear RNNs with Closed-loop Control";
``fla/layers/comba.py`` of fla-org/flash-linear-attention at bc3b101d, whose kernels and chunked form this is: its naive
recurrent form decays first and is another function. Published results were not looked up.
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from seqconv_kernels import dplr_delta_rule, dplr_delta_rule_step

from ....parameters import set_optimizer_options
from ....registry import register
from .delta_layer import unit_length
from .scalar_decay import ScalarDecayLayer, ScalarDecayOptions


@register(
    "comba",
    examples=(
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "d_conv": 3, "conv_bias": True},
        {"num_heads": 2, "use_inner_decay": False, "use_output_gate": False, "d_conv": None, "correction_factor": 0.02},
        {"num_heads": 2, "use_output_correction": False},
    ),
)
class Comba(ScalarDecayLayer):
    """Linear attention with the delta rule, closed-loop: feedback before the decay, corrected queries.

    Args:
        d_model: width of inputs and outputs.
        use_inner_decay: whether p is a share of k.
        use_output_correction: subtract ``D p`` from the queries.
        correction_factor: initial D.
        allow_neg_eigval: β up to 2; the original has no such option.
        use_output_gate ... dt_init_floor: see
            :class:`.scalar_decay.ScalarDecayOptions`; the gate is ``σ(W_g x)``.
        num_heads ... norm_eps: see :class:`.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: as :class:`.scalar_decay.ScalarDecayLayer`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        use_inner_decay: bool = True,
        use_output_correction: bool = True,
        correction_factor: float = 1.0,
        allow_neg_eigval: bool = False,
        **options: Unpack[ScalarDecayOptions],
    ) -> None:
        super().__init__(d_model, allow_neg_eigval=allow_neg_eigval, **options)
        self.correction_factor = correction_factor
        self.inner_decay = nn.Parameter(torch.empty(self.heads)) if use_inner_decay else None
        self.D = nn.Parameter(torch.empty(self.heads)) if use_output_correction else None
        vectors = (("inner_decay", self.inner_decay), ("D", self.D))
        set_optimizer_options(self, *(name for name, vector in vectors if vector is not None), weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As gated DeltaNet; the share of the keys starts at σ(1)."""
        super().reset_parameters()
        if self.inner_decay is not None:
            self.inner_decay.fill_(1.0)
        if self.D is not None:
            self.D.fill_(self.correction_factor)

    def _split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As everywhere, and next to the keys the feedback: (…, heads, 2 d_k)."""
        q, k, v = qkv.split(self.widths, dim=-1)
        q, k = (t.unflatten(-1, (self.heads, -1)) for t in (q, k))
        p = k if self.inner_decay is None else k * torch.sigmoid(self.inner_decay)[:, None]
        q = q if self.D is None else q - self.D[:, None] * p
        return unit_length(q), torch.cat([unit_length(k), unit_length(p)], dim=-1), v.unflatten(-1, (-1, self.d_v))

    def _scan(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        k, p = self._strong_keys(k, x)
        pair = dplr_delta_rule(
            q, k, v, -p, None, self._log_decay(x), initial_state=memory, return_final_state=True
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return pair

    def _recur(self, q: Tensor, k: Tensor, v: Tensor, x_t: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        k, p = self._strong_keys(k, x_t)
        return dplr_delta_rule_step(q, k, v, -p, None, self._log_decay(x_t), state=memory)

    def _strong_keys(self, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """``β k`` per value head, and p."""
        k, p = k.chunk(2, dim=-1)
        return self._beta(x)[..., None] * k.repeat_interleave(self.v_heads // self.heads, dim=-2), p

    def _output_gate(self, x: Tensor) -> Tensor | None:
        return None if self.g_proj is None else torch.sigmoid(self.g_proj(x))
