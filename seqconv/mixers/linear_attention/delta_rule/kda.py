"""Kimi delta attention: the delta rule with a decay per key channel and token.

The equation of :mod:`.delta_layer` with the decays, per value head, and the output gate
of :mod:`.channel_decay`.

Source: Kimi Team 2025 (arXiv 2510.26692): 48 B parameters, one layer of full attention in four, MMLU-Pro 51.0 and
RULER at 128k tokens 84.3 (README of MoonshotAI/Kimi-Linear); ``fla/layers/kda.py`` of
fla-org/flash-linear-attention at bc3b101d; the layer of Kimi-Linear in transformers 5.23.0, whose gates have the width
of a key head in between and no bias.
"""

from typing import Unpack

from ....registry import register
from .channel_decay import ChannelDecayLayer, ChannelDecayOptions


@register(
    "kda",
    examples=(
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "allow_neg_eigval": True},
        {"num_heads": 2, "gate_bias": False, "gate_low_rank_dim": 3, "decay_lower_bound": -5.0, "d_conv": None},
    ),
)
class KimiDeltaAttention(ChannelDecayLayer):
    """Linear attention with the delta rule and a decay per key channel.

    Args:
        d_model: width of inputs and outputs.
        allow_neg_eigval: β up to 2, for eigenvalues of the transition down to -1.
        decay_lower_bound: least logarithm of the decay, below 0; ``None`` for the unbounded form.
        gate_low_rank_dim ... dt_init_floor: see
            :class:`.channel_decay.ChannelDecayOptions`.
        num_heads ... norm_eps: see :class:`.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: as :class:`.channel_decay.ChannelDecayLayer`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        allow_neg_eigval: bool = False,
        decay_lower_bound: float | None = None,
        **options: Unpack[ChannelDecayOptions],
    ) -> None:
        bound = decay_lower_bound
        super().__init__(d_model, allow_neg_eigval=allow_neg_eigval, decay_lower_bound=bound, **options)
        self.reset_parameters()
