"""A decay per value head and token for layers of the delta rule, as in Mamba-2, and the output gate that goes with it.

``log α_t = -exp(A_log) softplus(W_a x + b)``, one number per value head, and the gate ``silu(W_g x)``.

Source: ``fla/layers/gated_deltanet.py`` of fla-org/flash-linear-attention at 0243cc45 and ``gated_deltaproduct.py``
there at bc3b101d.
"""

from typing import Annotated, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.linear import Linear
from ....layers.time_step import check_time_steps, reset_time_step_bias
from ....options import Default, select_options, with_defaults
from ....parameters import set_optimizer_options
from .delta_layer import DeltaLayer, DeltaLayerOptions

A_RANGE = (0.0, 16.0)
"""Initial decay rates are uniform between these numbers."""
SMALLEST_RATE = 1e-4
"""Least initial decay rate: the logarithm of 0, which the original can draw, is no number."""


class ScalarDecayOptions(DeltaLayerOptions, total=False):
    """Options of :class:`ScalarDecayLayer`.

    Attributes:
        use_output_gate: multiply the normalised output by ``silu(W_g x)``.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.
    """

    use_output_gate: Annotated[bool, Default(True)]
    dt_min: Annotated[float, Default(0.001)]
    dt_max: Annotated[float, Default(0.1)]
    dt_init_floor: Annotated[float, Default(1e-4)]


class ScalarDecayLayer(DeltaLayer):
    """A layer of the delta rule with or without a scalar decay per head; concrete ones end with ``reset_parameters()``.

    Args:
        d_model: width of inputs and outputs.
        decays: whether there is a decay.
        allow_neg_eigval, sub_steps: as :class:`.delta_layer.DeltaLayer`.
        **options: see :class:`ScalarDecayOptions`.

    Raises:
        ValueError: as :class:`.delta_layer.DeltaLayer`; time steps out of range.
    """

    def __init__(
        self,
        d_model: int,
        *,
        decays: bool = True,
        allow_neg_eigval: bool = False,
        sub_steps: int = 1,
        **options: Unpack[ScalarDecayOptions],
    ) -> None:
        o = with_defaults(ScalarDecayOptions, options, self.name)
        own = select_options(DeltaLayerOptions, options)
        super().__init__(d_model, allow_neg_eigval=allow_neg_eigval, sub_steps=sub_steps, **own)
        self.dt_range = (o["dt_min"], o["dt_max"], o["dt_init_floor"])
        check_time_steps(*self.dt_range)
        self.decays = decays
        self.g_proj = Linear(d_model, self.d_inner, bias=False) if o["use_output_gate"] else None
        if decays:
            self.a_proj = Linear(d_model, self.v_heads, bias=False)
            self.A_log = nn.Parameter(torch.empty(self.v_heads))
            self.dt_bias = nn.Parameter(torch.empty(self.v_heads))
            self.keep_float32("A_log", "dt_bias")
            set_optimizer_options(self, "A_log", "dt_bias", weight_decay=0.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decay rates uniform, time steps log-uniform in their ranges."""
        if self.decays:
            self.A_log.uniform_(*A_RANGE).clamp_(min=SMALLEST_RATE).log_()
            reset_time_step_bias(self.dt_bias, *self.dt_range)

    def _log_decay(self, x: Tensor) -> Tensor | None:
        if not self.decays:
            return None
        a: Tensor = self.a_proj(x)
        wide = accumulation_dtype(a, self.A_log)
        return -self.A_log.to(wide).exp() * F.softplus(a.to(wide) + self.dt_bias)

    def _output_gate(self, x: Tensor) -> Tensor | None:
        return None if self.g_proj is None else F.silu(self.g_proj(x))
