"""Gated DeltaNet: the delta rule with one decay per head and token, as in Mamba-2.

The equation of :mod:`~.delta_layer` with ``log α_t = -exp(A_log) softplus(W_a x + b)``, one number per
value head, and the gate ``silu(W_g x)``.

Source: Yang et al. 2024 (arXiv 2412.06464); ``fla/layers/gated_deltanet.py`` of fla-org/flash-linear-attention at
0243cc45; the layers of Qwen3-Next, Qwen3.5 and OLMo-Hybrid in transformers 5.23.0.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.time_step import check_time_steps, reset_time_step_bias
from ...parameters import set_optimizer_options
from ...registry import register
from .delta_layer import DeltaLayer, DeltaLayerOptions

A_RANGE = (0.0, 16.0)
"""Initial decay rates are uniform between these numbers."""
SMALLEST_RATE = 1e-4
"""Least initial decay rate: the logarithm of 0, which the original can draw, is no number."""


@register(
    "gated_deltanet",
    examples=(
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "allow_neg_eigval": True},
        {"num_heads": 2, "use_output_gate": False, "d_conv": 3, "conv_bias": True},
    ),
)
class GatedDeltaNet(DeltaLayer):
    """Linear attention with the delta rule and a scalar decay per head.

    Args:
        d_model: width of inputs and outputs.
        use_output_gate: multiply the normalised output by ``silu(W_g x)``.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.
        num_heads ... norm_eps: see :class:`~seqconv.mixers.linear_attention.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: as :class:`~seqconv.mixers.linear_attention.delta_layer.DeltaLayer`; time steps out of range.
    """

    def __init__(
        self,
        d_model: int,
        *,
        use_output_gate: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        **options: Unpack[DeltaLayerOptions],
    ) -> None:
        super().__init__(d_model, **options)
        check_time_steps(dt_min, dt_max, dt_init_floor)
        self.dt_range = (dt_min, dt_max, dt_init_floor)
        self.a_proj = nn.Linear(d_model, self.v_heads, bias=False)
        self.g_proj = nn.Linear(d_model, self.widths[2], bias=False) if use_output_gate else None
        self.A_log = nn.Parameter(torch.empty(self.v_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.v_heads))
        self.keep_float32("A_log", "dt_bias")
        set_optimizer_options(self, "A_log", "dt_bias", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decay rates uniform, time steps log-uniform in their ranges."""
        self.A_log.uniform_(*A_RANGE).clamp_(min=SMALLEST_RATE).log_()
        reset_time_step_bias(self.dt_bias, *self.dt_range)

    def _log_decay(self, x: Tensor) -> Tensor:
        a: Tensor = self.a_proj(x)
        wide = accumulation_dtype(a, self.A_log)
        return -self.A_log.to(wide).exp() * F.softplus(a.to(wide) + self.dt_bias)

    def _output_gate(self, x: Tensor) -> Tensor | None:
        return None if self.g_proj is None else F.silu(self.g_proj(x))
