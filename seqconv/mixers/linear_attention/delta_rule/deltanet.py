"""DeltaNet: linear attention that replaces the value stored under a key instead of adding to it.

The equation of :mod:`~.delta_layer` without a decay, ``α = 1``, and optionally a gate ``silu(W_g x)``.

Source: Schlag et al. 2021 (arXiv 2102.11174), Yang et al. 2024 (arXiv 2406.06484); ``fla/layers/delta_net.py`` of
fla-org/flash-linear-attention at 0315a70e.
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from ....layers.linear import Linear
from ....registry import register
from .delta_layer import DeltaLayer, DeltaLayerOptions


@register(
    "deltanet",
    examples=(
        {"num_heads": 2, "use_output_gate": True, "allow_neg_eigval": True, "d_conv": 3, "conv_bias": True},
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "d_conv": None},
    ),
)
class DeltaNet(DeltaLayer):
    """Linear attention with the delta rule and no decay.

    Args:
        d_model: width of inputs and outputs.
        use_output_gate: multiply the normalised output by ``silu(W_g x)``.
        allow_neg_eigval: β up to 2, for eigenvalues of the transition down to -1.
        num_heads ... norm_eps: see :class:`.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: as :class:`.delta_layer.DeltaLayer`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        use_output_gate: bool = False,
        allow_neg_eigval: bool = False,
        **options: Unpack[DeltaLayerOptions],
    ) -> None:
        super().__init__(d_model, allow_neg_eigval=allow_neg_eigval, **options)
        self.g_proj = Linear(d_model, self.d_inner, bias=False) if use_output_gate else None

    def _log_decay(self, x: Tensor) -> None:
        return None

    def _output_gate(self, x: Tensor) -> Tensor | None:
        return None if self.g_proj is None else F.silu(self.g_proj(x))
