"""Kimi delta attention: the delta rule with a decay per key channel and token.

The equation of :mod:`~seqconv.mixers.linear_attention.delta_layer` with, per value head h and key channel c::

    f = W_2 W_1 x                                            a bottleneck of the width of a head
    log α_t = -exp(A_log[h]) softplus(f + b[h, c])           or, bounded below by l:  l σ(exp(A_log[h]) (f + b[h, c]))
    gate = σ(W_4 W_3 x + c)

Source: Kimi Team 2025 (arXiv 2510.26692); ``fla/layers/kda.py`` of fla-org/flash-linear-attention at bc3b101d; the
layer of Kimi-Linear in transformers 5.23.0, whose gates have the width of a key head in between and no bias.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.time_step import check_time_steps, reset_time_step_bias
from ...parameters import set_optimizer_options
from ...registry import register
from .delta_layer import DeltaLayer, DeltaLayerOptions

A_RANGE = (1.0, 16.0)
"""Initial decay rates are uniform between these numbers."""


@register(
    "kda",
    examples=(
        {"num_heads": 2, "num_v_heads": 4, "head_v_dim": 5, "allow_neg_eigval": True},
        {"num_heads": 2, "gate_bias": False, "gate_low_rank_dim": 3, "decay_lower_bound": -5.0, "d_conv": None},
    ),
)
class KimiDeltaAttention(DeltaLayer):
    """Linear attention with the delta rule and a decay per key channel.

    Args:
        d_model: width of inputs and outputs.
        gate_low_rank_dim: width between the two projections of the decay and of the output gate; ``head_v_dim`` if not
            given.
        gate_bias: whether the output gate has a bias.
        decay_lower_bound: least logarithm of the decay, below 0; ``None`` for the unbounded form.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.
        num_heads ... norm_eps: see :class:`~seqconv.mixers.linear_attention.delta_layer.DeltaLayerOptions`.

    Raises:
        ValueError: as :class:`~.delta_layer.DeltaLayer`; time steps or a bound out of range.
    """

    def __init__(
        self,
        d_model: int,
        *,
        gate_low_rank_dim: int | None = None,
        gate_bias: bool = True,
        decay_lower_bound: float | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        **options: Unpack[DeltaLayerOptions],
    ) -> None:
        super().__init__(d_model, **options)
        check_time_steps(dt_min, dt_max, dt_init_floor)
        if decay_lower_bound is not None and decay_lower_bound >= 0:
            got = f"decay_lower_bound={decay_lower_bound}"
            raise argument_error("kda mixer", got, "a logarithm below 0", "take -5.0, or None for no bound")
        self.dt_range, self.decay_lower_bound = (dt_min, dt_max, dt_init_floor), decay_lower_bound
        rank = self.d_v if gate_low_rank_dim is None else gate_low_rank_dim
        decays = self.v_heads * self.d_k
        self.f_proj = nn.Sequential(nn.Linear(d_model, rank, bias=False), nn.Linear(rank, decays, bias=False))
        self.g_proj = nn.Sequential(
            nn.Linear(d_model, rank, bias=False), nn.Linear(rank, self.widths[2], bias=gate_bias)
        )
        self.A_log = nn.Parameter(torch.empty(self.v_heads))
        self.dt_bias = nn.Parameter(torch.empty(decays))
        self.keep_float32("A_log", "dt_bias")
        set_optimizer_options(self, "A_log", "dt_bias", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decay rates uniform (1 with a lower bound), time steps log-uniform in their range."""
        if self.decay_lower_bound is None:
            self.A_log.uniform_(*A_RANGE).log_()
        else:
            self.A_log.zero_()
        reset_time_step_bias(self.dt_bias, *self.dt_range)

    def _log_decay(self, x: Tensor) -> Tensor:
        f: Tensor = self.f_proj(x)
        wide = accumulation_dtype(f, self.A_log)
        f = (f.to(wide) + self.dt_bias).unflatten(-1, (self.v_heads, -1))
        rate = self.A_log.to(wide).exp()[:, None]
        if self.decay_lower_bound is None:
            return -rate * F.softplus(f)
        return self.decay_lower_bound * torch.sigmoid(rate * f)

    def _output_gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.g_proj(x))
