"""Gated DeltaNet: the delta rule with one decay per head and token, as in Mamba-2.

The equation of :mod:`.delta_layer` with the decay and the output gate of
:mod:`.scalar_decay`.

Source: Yang et al. 2024 (arXiv 2412.06464); ``fla/layers/gated_deltanet.py`` of fla-org/flash-linear-attention at
0243cc45; the layers of Qwen3-Next, Qwen3.5 and OLMo-Hybrid in transformers 5.23.0.
"""

from typing import Unpack

from ....registry import register
from .scalar_decay import ScalarDecayLayer, ScalarDecayOptions


@register(
    "gated_deltanet",
    examples=(
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "allow_neg_eigval": True},
        {"num_heads": 2, "use_output_gate": False, "d_conv": 3, "conv_bias": True},
    ),
)
class GatedDeltaNet(ScalarDecayLayer):
    """Linear attention with the delta rule and a scalar decay per head.

    Args:
        d_model: width of inputs and outputs.
        allow_neg_eigval: β up to 2, for eigenvalues of the transition down to -1.
        use_output_gate ... dt_init_floor: see
            :class:`.scalar_decay.ScalarDecayOptions`.
        num_heads ... norm_eps: see :class:`.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: as :class:`.scalar_decay.ScalarDecayLayer`.
    """

    def __init__(self, d_model: int, *, allow_neg_eigval: bool = False, **options: Unpack[ScalarDecayOptions]) -> None:
        super().__init__(d_model, allow_neg_eigval=allow_neg_eigval, **options)
        self.reset_parameters()
