"""A decay per key channel and token for layers of the delta rule, and the output gate that goes with it.

Per head h (of values in KDA, of keys in gated DeltaNet-2) and key channel c::

    f = W_2 W_1 x                                            a bottleneck of the width of a head
    log α_t = -exp(A_log[h]) softplus(f + b[h, c])           or, bounded below by l:  l σ(exp(A_log[h]) (f + b[h, c]))
    gate = σ(W_4 W_3 x + c)

Source: ``fla/layers/kda.py`` and ``gdn2.py`` of fla-org/flash-linear-attention at bc3b101d.
"""

from typing import Annotated, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.linear import Linear
from ....layers.time_step import check_time_steps, reset_time_step_bias
from ....options import Default, select_options, with_defaults
from ....parameters import set_optimizer_options
from .delta_layer import DeltaLayer, DeltaLayerOptions

A_RANGE = (1.0, 16.0)
"""Initial decay rates are uniform between these numbers."""


class ChannelDecayOptions(DeltaLayerOptions, total=False):
    """Options of :class:`ChannelDecayLayer`.

    Attributes:
        gate_low_rank_dim: width between the two projections of the decay and of the output gate; ``head_v_dim`` if not
            given.
        gate_bias: whether the output gate has a bias.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.
    """

    gate_low_rank_dim: Annotated[int | None, Default(None)]
    gate_bias: Annotated[bool, Default(True)]
    dt_min: Annotated[float, Default(0.001)]
    dt_max: Annotated[float, Default(0.1)]
    dt_init_floor: Annotated[float, Default(1e-4)]


class ChannelDecayLayer(DeltaLayer):
    """A layer of the delta rule with a decay per key channel; concrete layers end with ``reset_parameters()``.

    Args:
        d_model: width of inputs and outputs.
        allow_neg_eigval: as :class:`.delta_layer.DeltaLayer`.
        decay_lower_bound: least logarithm of the decay, below 0; ``None`` for the unbounded form.
        **options: see :class:`ChannelDecayOptions`.

    Attributes:
        decay_of_keys: whether the decays are those of the key heads, which value heads share.

    Raises:
        ValueError: as :class:`.delta_layer.DeltaLayer`; time steps or a bound out of
            range.
    """

    decay_of_keys: ClassVar[bool] = False

    def __init__(
        self,
        d_model: int,
        *,
        allow_neg_eigval: bool = False,
        decay_lower_bound: float | None = None,
        **options: Unpack[ChannelDecayOptions],
    ) -> None:
        o = with_defaults(ChannelDecayOptions, options, self.name)
        own = select_options(DeltaLayerOptions, options)
        super().__init__(d_model, allow_neg_eigval=allow_neg_eigval, **own)
        self.dt_range, self.decay_lower_bound = (o["dt_min"], o["dt_max"], o["dt_init_floor"]), decay_lower_bound
        check_time_steps(*self.dt_range)
        if decay_lower_bound is not None and decay_lower_bound >= 0:
            got = f"decay_lower_bound={decay_lower_bound}"
            raise argument_error(f"{self.name} mixer", got, "a logarithm below 0", "take -5.0, or None for no bound")
        rank = self.d_v if o["gate_low_rank_dim"] is None else o["gate_low_rank_dim"]
        self.decay_heads = self.heads if self.decay_of_keys else self.v_heads
        decays = self.decay_heads * self.d_k
        self.f_proj = nn.Sequential(Linear(d_model, rank, bias=False), Linear(rank, decays, bias=False))
        self.g_proj = nn.Sequential(Linear(d_model, rank, bias=False), Linear(rank, self.d_inner, bias=o["gate_bias"]))
        self.A_log = nn.Parameter(torch.empty(self.decay_heads))
        self.dt_bias = nn.Parameter(torch.empty(decays))
        self.keep_float32("A_log", "dt_bias")
        set_optimizer_options(self, "A_log", "dt_bias", weight_decay=0.0)

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
        f = (f.to(wide) + self.dt_bias).unflatten(-1, (self.decay_heads, -1))
        rate = self.A_log.to(wide).exp()[:, None]
        if self.decay_lower_bound is None:
            return -rate * F.softplus(f)
        return self.decay_lower_bound * torch.sigmoid(rate * f)

    def _output_gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.g_proj(x))
