"""Log-linear Mamba-2: Mamba-2 whose past is weighted by its distance in logarithmically many levels.

Equation, with H heads of P channels that share B and C::

    [z | u | B | C | dt | dl] = W_in x       [u, B, C] = silu(conv([u, B, C]))
    Δ = softplus(dt + dt_bias)               A = -exp(A_log), one number per head
    λ = softplus(L ⊙ dl)                     (heads, levels) per token
    y = log-linear attention(C, B, Δ u, Δ A, λ) + D u
    out = W_out norm(y ⊙ silu(z))

See :mod:`~seqconv.mixers.linear_attention.fenwick` for the attention itself. λ = 1 in all levels is Mamba-2.

Source: Guo et al. 2025, "Log-Linear Attention" (arXiv 2506.04761); ``fla/layers/log_linear_mamba2.py`` of
fla-org/flash-linear-attention at bc3b101d. Published results were not looked up.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...layers.short_convolution import ShortConvolution
from ...layers.time_step import check_time_steps, reset_rates, reset_time_step_bias
from ...mixer import Mixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import StateKind
from ..state_space.mamba2 import GatedRMSNorm
from .fenwick import log_linear_attention

NUM_LEVELS = 15
"""Levels of the original, enough for 2^14 tokens."""


@state_class
class LogLinearState(State):
    """The last inputs of the short convolution, the memory of every level, the tokens so far."""

    conv: Float[Tensor, "batch reach channels"]
    memory: Float[Tensor, "batch heads levels d_state head_dim"]
    tokens: Int[Tensor, " batch"]


@register("log_linear_mamba2", examples=({"d_state": 4, "head_dim": 4, "num_levels": 4, "conv_bias": True},))
class LogLinearMamba2(Mixer):
    """Mamba-2 with a memory for each level of distance.

    Args:
        d_model: width of inputs and outputs.
        d_state: state size per channel.
        d_conv: taps of the short convolution.
        conv_init: initial taps are drawn from ±``conv_init``; as in a Conv1d if not given.
        expand: inner channels per input channel.
        head_dim: channels per head; 64 if not given, or less where 64 does not divide the inner width.
        num_levels: levels of distance; tokens further than ``2^(num_levels - 1)`` share the last one.
        norm_eps: ε of the norm.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.
        bias: whether the projections into and out of the mixer have biases.
        conv_bias: whether the short convolution has a bias.

    Raises:
        ValueError: heads that do not divide the inner width, sizes below 1, fewer than two levels.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        conv_init: float | None = None,
        expand: int | float = 2,
        head_dim: int | None = None,
        num_levels: int = NUM_LEVELS,
        norm_eps: float = 1e-5,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        bias: bool = True,
        conv_bias: bool = False,
    ) -> None:
        super().__init__(d_model)
        d_inner = int(expand * d_model)
        self.head_dim, self.d_state, self.levels = (
            math.gcd(64, d_inner) if head_dim is None else head_dim,
            d_state,
            num_levels,
        )
        self.dt_range = (dt_min, dt_max, dt_init_floor)
        if min(d_inner, self.head_dim, d_state, num_levels - 1) < 1 or d_inner % self.head_dim:
            got = f"d_inner={d_inner}, head_dim={self.head_dim}, d_state={d_state}, num_levels={num_levels}"
            wanted = "sizes of at least 1, head_dim that divides d_inner, two levels or more"
            raise argument_error("log_linear_mamba2 mixer", got, wanted, "correct the sizes")
        check_time_steps(*self.dt_range)
        self.heads, self.conv_parts = d_inner // self.head_dim, [d_inner, d_state, d_state]
        self.parts = [d_inner, sum(self.conv_parts), self.heads, self.heads * num_levels]
        self.in_proj = Linear(d_model, sum(self.parts), bias=bias)
        self.conv1d = ShortConvolution(sum(self.conv_parts), d_conv, bias=conv_bias, init_range=conv_init)
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.empty(self.heads)) for _ in range(3))
        self.L = nn.Parameter(torch.empty(self.heads, num_levels))
        self.norm = GatedRMSNorm(d_inner, eps=norm_eps)
        self.out_proj = Linear(d_inner, d_model, bias=bias)
        self.keep_float32("dt_bias", "A_log", "D", "L")
        set_optimizer_options(self, "dt_bias", "A_log", "D", "L", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """-A = 1, 2, …, time steps log-uniform in their range, D and L = 1."""
        reset_time_step_bias(self.dt_bias, *self.dt_range)
        reset_rates(self.A_log)
        self.D.fill_(1.0)
        self.L.fill_(1.0)

    @property
    def state_kind(self) -> StateKind:
        """The state has a fixed size: one memory per level."""
        return "constant"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        state = self._init_state(x.shape[0], None, x.device, x.dtype)
        return self._prefill(x, state, mask)[0]

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        sizes = (batch_size, self.heads, self.levels - 1, self.d_state, self.head_dim)
        tokens = torch.zeros(batch_size, device=device, dtype=torch.int64)
        memory = torch.zeros(sizes, device=device, dtype=wide)
        return LogLinearState(self.conv1d.init_state(batch_size, device, dtype), memory, tokens)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, LogLinearState)
        z, inputs, dt, dl = self.in_proj(x).split(self.parts, dim=-1)
        inputs, conv = self.conv1d(zero_padding(inputs, mask), state.conv)
        u, B, C = zero_padding(inputs, mask).split(self.conv_parts, dim=-1)
        u, wide = u.unflatten(-1, (self.heads, -1)), accumulation_dtype(dt, self.dt_bias)
        dt = zero_padding(F.softplus(dt.to(wide) + self.dt_bias), mask)
        scales = F.softplus(self.L * dl.unflatten(-1, (self.heads, -1)).to(wide))
        real = torch.ones_like(x[..., 0], dtype=torch.int64) if mask is None else mask.to(torch.int64)
        tokens = state.tokens[:, None] + real.cumsum(1)
        read = (C.to(wide), B.to(wide), u.to(wide) * dt[..., None], -self.A_log.to(wide).exp() * dt, scales)
        y, memory = _finite_apart(*read, state.memory.to(wide), tokens - 1, state.tokens)
        y = (y + self.D[:, None] * u).flatten(-2)
        out: Tensor = self.out_proj(self.norm(y.to(u.dtype), z))
        return out, LogLinearState(conv, memory, tokens[:, -1])

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self._prefill(x_t[:, None], state, None)
        return y[:, 0], after


def _finite_apart(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, scales: Tensor, memory: Tensor, position: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-linear attention whose tokens that are not finite reach later outputs of their row alone."""
    finite = torch.stack([t.isfinite().flatten(2).all(-1) for t in (k, v, g)]).all(0)
    before = ~memory.isfinite().flatten(1).all(1, keepdim=True)
    k, v, g = (t.masked_fill(~finite.view(*finite.shape, *[1] * (t.dim() - 2)), 0) for t in (k, v, g))
    memory = memory.masked_fill(before[..., None, None, None], 0)
    o, after = log_linear_attention(q, k, v, g, scales, memory, position, start)
    reached = (~finite).cumsum(1) + before > 0
    return o.masked_fill(reached[..., None, None], torch.nan), after.masked_fill(
        reached[:, -1, None, None, None, None], torch.nan
    )
