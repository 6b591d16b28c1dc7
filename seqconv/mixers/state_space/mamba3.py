"""Mamba-3: a selective state space with a trapezoidal rule, a rotating state, and several inputs and outputs per head.

Equation, per head of P channels, with a state ``S`` of (P, N), rank R (one without MIMO) and G groups of heads::

    [z | x | B | C | δ | a | l | φ] = W_in u             no convolution
    Δ = softplus(δ + dt_bias)    A = -(1 + a) for a ≥ 0, -1/(1 - a) below, at most -A_floor    λ = σ(l)
    θ_t = θ_{t-1} + π tanh(φ_t) Δ_t                      angles for pairs of the N channels, per head
    b_r, c_r = R(θ_t) (norm(B_r) + B_bias), R(θ_t) (norm(C_r) + C_bias)        x_r = x ⊙ mimo_x_r
    S_t = e^(A Δ_t) (S_{t-1} + (1 - λ_t) Δ_t Σ_r x_{r,t-1} b_{r,t-1}^T) + λ_t Δ_t Σ_r x_{r,t} b_{r,t}^T
    y_r = S_t c_r + D x_r                                out = W_out Σ_r mimo_o_r ⊙ y_r ⊙ silu(z ⊙ mimo_z_r)

With ``outproj_norm`` every y_r is normalised over its head before the gate. Without MIMO the rotated pairs are
neighbouring channels, with it channels N/2 apart: those of the original's kernels. (Its reference of one MIMO step
rotates neighbours, which is another function.)

Source: Lahoti et al. 2026 (Mamba-3, ICLR; at 1.5B parameters 0.6 points over gated DeltaNet downstream, with MIMO 1.2
more, at half of Mamba-2's state size for the same perplexity: abstract) and ``mamba_ssm/modules/mamba3.py`` of
state-spaces/mamba at e9594ce1.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import gated_linear_attention
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...layers.time_step import check_time_steps, reset_time_step_bias
from ...mixer import ScanMixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from .mamba2 import GatedRMSNorm

NORM_EPS = 1e-5
ROPE_FRACTIONS = (0.5, 1.0)


@state_class
class Mamba3State(State):
    """The angles, the state of the scan, and of the last token the rotated ``b`` of every rank and its input ``x``."""

    angle: Float[Tensor, "batch heads angles"]
    ssm: Float[Tensor, "batch heads d_state head_dim"]
    b: Float[Tensor, "batch rank heads d_state"]
    x: Float[Tensor, "batch heads head_dim"]


class Tokens(NamedTuple):
    """What the projections make of some tokens; rates are float32 at least.

    Attributes:
        z, x: (…, heads, head_dim).
        B, C: normalised, biased, not rotated, (…, rank, heads, d_state).
        log_decay, dt, mix: A Δ, Δ and λ, (…, heads).
        turn: the increments of the angles, (…, heads, angles).
    """

    z: Tensor
    x: Tensor
    B: Tensor
    C: Tensor
    log_decay: Tensor
    dt: Tensor
    mix: Tensor
    turn: Tensor


def rotate_pairs(
    x: Float[Tensor, "*tokens heads d_state"], angle: Float[Tensor, "*#tokens heads angles"], *, adjacent: bool
) -> Float[Tensor, "*tokens heads d_state"]:
    """Rotate the first pairs of channels: (2i, 2i + 1) if ``adjacent``, else (i, i + d_state / 2)."""
    angles, half = angle.shape[-1], x.shape[-1] // 2
    cos, sin = angle.cos(), angle.sin()
    if adjacent:
        turned, rest = x[..., : 2 * angles].unflatten(-1, (angles, 2)), x[..., 2 * angles :]
        first, second = turned[..., 0], turned[..., 1]
        pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
        return torch.cat([pairs.flatten(-2), rest], dim=-1)
    first, second = x[..., :angles], x[..., half : half + angles]
    parts = [first * cos - second * sin, x[..., angles:half], first * sin + second * cos, x[..., half + angles :]]
    return torch.cat(parts, dim=-1)


def trapezoidal_scan(
    c: Float[Tensor, "batch length rank heads d_state"],
    b: Float[Tensor, "batch length rank heads d_state"],
    x: Float[Tensor, "batch length rank heads head_dim"],
    log_decay: Float[Tensor, "batch length heads"],
    dt: Float[Tensor, "batch length heads"],
    mix: Float[Tensor, "batch length heads"],
    state: Float[Tensor, "batch heads d_state head_dim"] | None = None,
) -> tuple[Float[Tensor, "batch length rank heads head_dim"], Float[Tensor, "batch heads d_state head_dim"]]:
    """What every rank reads of the state, and the state after the last token, which misses the part of its next one.

    The ranks of a token are tokens of a linear attention whose first one decays. A key is scaled with what its own
    token and the next add of it, ``λ_t Δ_t + (1 - λ_{t+1}) Δ_{t+1}``; what a rank sees of its own token is
    corrected: the next token's part is not there yet, and all ranks are there.

    Args:
        state: before the first token, with that token's part of the token before it.
    """
    rank = c.shape[2]
    own, later = mix * dt, F.pad((1.0 - mix) * dt, (0, 0, 0, 1))[:, 1:]
    # A next token that is not finite makes its own outputs NaN: here its part cancels, which NaN does not.
    later = torch.where(later.isfinite(), later, 0.0)
    keys = (b * (own + later)[:, :, None, :, None]).to(x.dtype)
    decay = F.pad(log_decay[:, :, None], (0, 0, 0, rank - 1))
    tokens = (t.flatten(1, 2) for t in (c.to(x.dtype), keys, x, decay))
    pair = gated_linear_attention(*tokens, scale=1.0, initial_state=state, return_final_state=True)
    assert isinstance(pair, tuple)
    scores = torch.einsum("blrhn,blshn->blhrs", c, b)
    seen = torch.ones(rank, rank, device=c.device, dtype=torch.bool).tril()
    missing = torch.where(seen, -later[..., None, None], own[..., None, None]) * scores
    correction = torch.einsum("blhrs,blshp->blrhp", missing.to(x.dtype), x)
    return pair[0].unflatten(1, (-1, rank)) + correction, pair[1]


@register(
    "mamba3",
    examples=(
        {"d_state": 6, "head_dim": 4, "num_groups": 2, "rope_fraction": 1.0},
        {"d_state": 8, "head_dim": 8, "mimo_rank": 2},
        {"d_state": 8, "head_dim": 4, "mimo_rank": 3, "outproj_norm": True, "expand": 1},
        {"d_state": 5, "head_dim": 4, "outproj_norm": True},
    ),
)
class Mamba3(ScanMixer[Mamba3State]):
    """Selective state space with a trapezoidal rule and a rotating state.

    Args:
        d_model: width of inputs and outputs.
        d_state: state size per channel.
        expand: inner channels per input channel.
        head_dim: channels per head; 64 if not given, or less where 64 does not divide the inner channels.
        num_groups: groups of heads that share B and C before their biases.
        mimo_rank: inputs and outputs of a head's state per token; ``None`` for one without projections (SISO).
        rope_fraction: share of the state's channels that rotate, 0.5 or 1.
        outproj_norm: normalise every head in front of the gate.
        A_floor: least decay rate.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.

    Raises:
        ValueError: heads or groups that do not divide, sizes below 1, no channel that rotates.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        expand: int | float = 2,
        head_dim: int | None = None,
        num_groups: int = 1,
        mimo_rank: int | None = None,
        rope_fraction: float = 0.5,
        outproj_norm: bool = False,
        A_floor: float = 1e-4,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
    ) -> None:
        super().__init__(d_model)
        self.d_inner, self.d_state, self.num_groups = int(expand * d_model), d_state, num_groups
        self.head_dim = math.gcd(64, self.d_inner) if head_dim is None else head_dim
        self.mimo, self.rank = mimo_rank is not None, 1 if mimo_rank is None else mimo_rank
        self.angles, self.A_floor = int(d_state * rope_fraction) // 2, A_floor
        self.dt_range = (dt_min, dt_max, dt_init_floor)
        self._check_sizes(rope_fraction)
        check_time_steps(*self.dt_range)
        self.heads = self.d_inner // self.head_dim
        grouped = d_state * num_groups * self.rank
        self.parts = [self.d_inner, self.d_inner, grouped, grouped, self.heads, self.heads, self.heads, self.angles]
        self.in_proj = Linear(d_model, sum(self.parts), bias=False)
        self.dt_bias, self.D = nn.Parameter(torch.empty(self.heads)), nn.Parameter(torch.empty(self.heads))
        self.B_bias = nn.Parameter(torch.empty(self.heads, self.rank, d_state))
        self.C_bias = nn.Parameter(torch.empty(self.heads, self.rank, d_state))
        self.B_norm, self.C_norm = RMSNorm(d_state, eps=NORM_EPS), RMSNorm(d_state, eps=NORM_EPS)
        self.mimo_x, self.mimo_z, self.mimo_o = (self._rank_projection() for _ in range(3))
        norm = GatedRMSNorm(self.d_inner, groups=self.heads, norm_before_gate=True, eps=NORM_EPS)
        self.norm = norm if outproj_norm else None
        self.out_proj = Linear(self.d_inner, d_model, bias=False)
        self.keep_float32("dt_bias", "D", "B_bias", "C_bias")
        set_optimizer_options(self, "dt_bias", "D", "B_bias", "C_bias", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Time steps log-uniform in their range; biases, D and ``mimo_z`` of 1, ``mimo_x`` and ``mimo_o`` of 1/R."""
        reset_time_step_bias(self.dt_bias, *self.dt_range)
        for parameter in (self.D, self.B_bias, self.C_bias):
            parameter.fill_(1.0)
        for projection, value in ((self.mimo_x, 1.0 / self.rank), (self.mimo_z, 1.0), (self.mimo_o, 1.0 / self.rank)):
            if projection is not None:
                projection.fill_(value)

    def _rank_projection(self) -> nn.Parameter | None:
        return nn.Parameter(torch.empty(self.heads, self.rank, self.head_dim)) if self.mimo else None

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide, H, N, P = torch.promote_types(dtype, torch.float32), self.heads, self.d_state, self.head_dim
        angle = torch.zeros(batch_size, H, self.angles, device=device, dtype=wide)
        ssm = torch.zeros(batch_size, H, N, P, device=device, dtype=wide)
        b = torch.zeros(batch_size, self.rank, H, N, device=device, dtype=wide)
        return Mamba3State(angle, ssm, b, torch.zeros(batch_size, H, P, device=device, dtype=dtype))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, Mamba3State)
        t = self._project(x_t)
        angle = (state.angle + t.turn).remainder(2.0 * math.pi)
        b, c = (rotate_pairs(s, angle[:, None], adjacent=not self.mimo) for s in (t.B, t.C))
        x = self._expand(t.x, self.mimo_x)
        written = torch.einsum("brhn,brhp->bhnp", b * (t.mix * t.dt)[:, None, :, None], x.to(b.dtype))
        ssm = t.log_decay.exp()[..., None, None] * self._with_last_token(state, t.mix, t.dt) + written
        y = torch.einsum("brhn,bhnp->brhp", c, ssm).to(x.dtype)
        return self._output(y, x, t.z), Mamba3State(angle, ssm, b, t.x)

    def _scan_from(self, u: Tensor, state: Mamba3State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        t = self._project(u)
        # In double precision: the angles of a long sequence are many turns.
        angle = t.turn.double().cumsum(1) if state is None else state.angle[:, None] + t.turn.double().cumsum(1)
        angle = angle.remainder(2.0 * math.pi).to(t.turn.dtype)
        b, c = (rotate_pairs(s, angle[:, :, None], adjacent=not self.mimo) for s in (t.B, t.C))
        x = zero_padding(t.x, mask)
        ranks = self._expand(x, self.mimo_x)
        before = None if state is None else self._with_last_token(state, t.mix[:, 0], t.dt[:, 0])
        y, ssm = trapezoidal_scan(c, b, ranks, t.log_decay, t.dt, t.mix, before)
        return self._output(y, ranks, t.z), Mamba3State(angle[:, -1], ssm, b[:, -1], x[:, -1])

    def _project(self, u: Tensor) -> Tokens:
        z, x, B, C, delta, a, trap, phi = self.in_proj(u).split(self.parts, dim=-1)
        wide = accumulation_dtype(u, self.dt_bias)
        dt, a = F.softplus(delta.to(wide) + self.dt_bias), a.to(wide)
        rate = torch.where(a >= 0, 1.0 + a, 1.0 / (1.0 - a.clamp(max=0.0))).clamp(min=self.A_floor)
        turn = math.pi * torch.tanh(phi.to(wide))[..., None, :] * dt[..., None]
        B = self._per_head(self.B_norm, B, self.B_bias)
        C = self._per_head(self.C_norm, C, self.C_bias)
        z, x = (s.unflatten(-1, (self.heads, -1)) for s in (z, x))
        return Tokens(z, x, B, C, -rate * dt, dt, torch.sigmoid(trap.to(wide)), turn)

    def _per_head(self, norm: nn.Module, grouped: Tensor, bias: Tensor) -> Tensor:
        normed: Tensor = norm(grouped.unflatten(-1, (self.rank, self.num_groups, self.d_state)))
        return normed.repeat_interleave(self.heads // self.num_groups, dim=-2) + bias.transpose(0, 1)

    def _expand(self, x: Tensor, projection: Tensor | None) -> Tensor:
        """One input per rank, (…, rank, heads, head_dim)."""
        return x[..., None, :, :] if projection is None else x[..., None, :, :] * projection.transpose(0, 1)

    def _with_last_token(self, state: Mamba3State, mix: Tensor, dt: Tensor) -> Tensor:
        """The state and the part of the last token that the next one adds."""
        keys = state.b * ((1.0 - mix) * dt)[:, None, :, None]
        x = self._expand(state.x, self.mimo_x).to(keys.dtype)
        return state.ssm + torch.einsum("brhn,brhp->bhnp", keys, x)

    def _output(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y, z = y + self.D.to(y.dtype)[:, None] * x, self._expand(z, self.mimo_z)
        y = y * F.silu(z) if self.norm is None else self.norm(y.flatten(-2), z.flatten(-2)).unflatten(-1, y.shape[-2:])
        if self.mimo_o is not None:
            y = y * self.mimo_o.transpose(0, 1)
        out: Tensor = self.out_proj(y.sum(-3).flatten(-2))
        return out

    def _check_sizes(self, rope_fraction: float) -> None:
        sizes = f"inner width {self.d_inner}, head_dim={self.head_dim}, num_groups={self.num_groups}, rank {self.rank}"
        if min(self.d_inner, self.head_dim, self.num_groups, self.rank) < 1:
            raise argument_error("mamba3 mixer", sizes, "sizes of at least 1", "correct the sizes")
        if self.d_inner % self.head_dim or (self.d_inner // self.head_dim) % self.num_groups:
            wanted = "head_dim that divides the inner width, num_groups that divides the heads"
            raise argument_error("mamba3 mixer", sizes, wanted, "change head_dim or num_groups")
        if rope_fraction not in ROPE_FRACTIONS or self.angles < 1 or (self.mimo and self.d_state % 2):
            got = f"rope_fraction={rope_fraction}, d_state={self.d_state}, mimo_rank={self.rank if self.mimo else None}"
            wanted = f"a fraction among {ROPE_FRACTIONS} with at least one pair, an even d_state with mimo_rank"
            raise argument_error("mamba3 mixer", got, wanted, "raise d_state")
