"""Mamba-2: a selective state space with one decay per head, computed as chunked matrix products.

Equation, with H heads of P channels, G groups of heads that share B and C, and a state of (P, N) per head::

    [z | u | B | C | dt] = W_in x            [u, B, C] = silu(conv([u, B, C]))
    Δ = softplus(dt + dt_bias), clamped      A = -exp(A_log), one number per head
    S_t = exp(Δ_t A) S_{t-1} + Δ_t u_t B_t^T
    y_t = S_t C_t + D u_t
    out = W_out norm(y ⊙ silu(z))

Source: Dao and Gu 2024 (arXiv 2405.21060) and the code of state-spaces/mamba. With ``d_ssm`` below the inner width
the other inner channels are a gated MLP, ``silu(z') ⊙ x'``. Padding enters the state with a zero input, which
leaves a zero state as it is.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import ssd, ssd_step
from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.initialisation import reset_residual_projection
from ...layers.linear import Linear
from ...layers.short_convolution import ShortConvolution
from ...layers.time_step import check_time_steps, reset_time_step_bias
from ...mixer import ScanMixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import LayerContext


class GatedRMSNorm(nn.Module):
    """Root-mean-square norm over groups of channels, with a gate.

    Args:
        channels: width.
        groups: channels are normalised in this many groups.
        norm_before_gate: ``rms(y) w silu(z)``; else ``rms(y silu(z)) w``.
        eps: ε.
    """

    def __init__(self, channels: int, *, groups: int = 1, norm_before_gate: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            remedy = "change the number of groups"
            raise argument_error(
                "GatedRMSNorm", f"{channels} channels in {groups} groups", "groups that divide", remedy
            )
        self.groups, self.norm_before_gate, self.eps = groups, norm_before_gate, eps
        self.weight = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights of one."""
        self.weight.fill_(1.0)

    def forward(
        self, y: Float[Tensor, "*tokens channels"], z: Float[Tensor, "*tokens channels"]
    ) -> Float[Tensor, "*tokens channels"]:
        """Normalise ``y``, gate with ``z``."""
        dtype = accumulation_dtype(y)
        gate = F.silu(z.to(dtype))
        wide = y.to(dtype) if self.norm_before_gate else y.to(dtype) * gate
        grouped = wide.unflatten(-1, (self.groups, -1))
        normed = F.rms_norm(grouped, grouped.shape[-1:], None, self.eps).flatten(-2) * self.weight
        return (normed * gate if self.norm_before_gate else normed).to(y.dtype)


@state_class
class Mamba2State(State):
    """The last inputs of the short convolution, oldest first, and the state of the scan."""

    conv: Float[Tensor, "batch reach channels"]
    ssm: Float[Tensor, "batch heads head_dim d_state"]


@register(
    "mamba2",
    examples=(
        {"d_state": 6, "head_dim": 4, "num_groups": 2, "chunk_size": 8},
        {"d_state": 5, "head_dim": 8, "norm_before_gate": True, "bias": True},
        {"d_state": 4, "head_dim": 4, "rmsnorm": False, "expand": 1},
        {"d_state": 4, "head_dim": 4, "D_per_channel": True, "dt_limit": (0.02, 0.5), "conv_bias": False, "d_conv": 3},
    ),
)
class Mamba2(ScanMixer[Mamba2State]):
    """Selective state space with one decay per head.

    Args:
        d_model: width of inputs and outputs.
        d_state: state size per channel.
        d_conv: taps of the short convolution.
        conv_init: initial taps are drawn from ±``conv_init``; as in a Conv1d if not given.
        expand: inner channels per input channel.
        head_dim: channels per head; 64 if not given, or less where 64 does not divide ``d_ssm``.
        d_ssm: inner channels that go through the scan, the others form a gated MLP; all if not given.
        num_groups: groups of heads that share B and C.
        A_init_range: initial ``-A`` are drawn between these.
        D_per_channel: one skip weight per channel instead of per head.
        rmsnorm: normalise in front of the output projection; else only gate.
        norm_before_gate: normalise first, then gate.
        norm_groups: channels are normalised in this many groups; ``num_groups`` if not given.
        norm_eps: ε of the norm.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.
        dt_limit: least and largest time step in use; none if not given.
        bias: whether the projections into and out of the mixer have biases.
        conv_bias: whether the short convolution has a bias.
        chunk_size: longest chunk that the scan may take; changes speed, not results.
        layer: place in a stack; the initial output projection shrinks with its depth.

    Raises:
        ValueError: heads or groups that do not divide, sizes below 1.
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
        d_ssm: int | None = None,
        num_groups: int = 1,
        A_init_range: Sequence[float] = (1.0, 16.0),
        D_per_channel: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        norm_groups: int | None = None,
        norm_eps: float = 1e-5,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: Sequence[float] | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_inner, self.d_state, self.num_groups = int(expand * d_model), d_state, num_groups
        self.d_ssm = self.d_inner if d_ssm is None else d_ssm
        self.head_dim = math.gcd(64, self.d_ssm) if head_dim is None else head_dim
        self.dt_limit, self.chunk_size = dt_limit, chunk_size
        self.layer, self.dt_range = layer, (dt_min, dt_max, dt_init_floor)
        self.A_init_range = tuple(A_init_range)
        _check_sizes(self.d_inner, self.d_ssm, self.head_dim, num_groups, d_state)
        check_time_steps(*self.dt_range)
        self.heads = self.d_ssm // self.head_dim
        self.conv_channels = self.d_ssm + 2 * num_groups * d_state
        d_mlp = self.d_inner - self.d_ssm
        self.parts = [d_mlp, d_mlp, self.d_ssm, self.conv_channels, self.heads]
        self.in_proj = Linear(d_model, sum(self.parts), bias=bias)
        self.conv1d = ShortConvolution(self.conv_channels, d_conv, bias=conv_bias, init_range=conv_init)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads, self.head_dim) if D_per_channel else torch.empty(self.heads))
        self.norm = (
            GatedRMSNorm(self.d_ssm, groups=norm_groups or num_groups, norm_before_gate=norm_before_gate, eps=norm_eps)
            if rmsnorm
            else None
        )
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)
        self.keep_float32("dt_bias", "A_log", "D")
        set_optimizer_options(self, "dt_bias", "A_log", "D", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """-A uniform and time steps log-uniform in their ranges, D = 1, the output projection by the depth."""
        reset_time_step_bias(self.dt_bias, *self.dt_range)
        self.A_log.uniform_(*self.A_init_range).log_()
        self.D.fill_(1.0)
        reset_residual_projection(self.out_proj, self.layer)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        ssm = torch.zeros(batch_size, self.heads, self.head_dim, self.d_state, device=device, dtype=wide)
        return Mamba2State(self.conv1d.init_state(batch_size, device, dtype), ssm)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, Mamba2State)
        z_mlp, x_mlp, z, inputs, dt = self.in_proj(x_t).split(self.parts, dim=-1)
        inputs, conv = self.conv1d.step(inputs, state.conv)
        u, B, C = self._heads(inputs)
        y, ssm = ssd_step(
            u, dt, self._A(), B, C, self.D,
            state=state.ssm, dt_bias=self.dt_bias, dt_softplus=True, dt_limit=self.dt_limit,
        )  # fmt: skip
        return self._output(y, z, z_mlp, x_mlp), Mamba2State(conv, ssm)

    def _scan_from(self, x: Tensor, state: Mamba2State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        z_mlp, x_mlp, z, inputs, dt = self.in_proj(x).split(self.parts, dim=-1)
        inputs, conv = self.conv1d(zero_padding(inputs, mask), None if state is None else state.conv)
        u, B, C = self._heads(zero_padding(inputs, mask))
        pair = ssd(
            u, dt, self._A(), B, C, self.D,
            dt_bias=self.dt_bias, dt_softplus=True, dt_limit=self.dt_limit, chunk_size=self.chunk_size,
            initial_state=None if state is None else state.ssm, return_final_state=True,
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return self._output(pair[0], z, z_mlp, x_mlp), Mamba2State(conv, pair[1])

    def _A(self) -> Tensor:
        return -self.A_log.to(accumulation_dtype(self.A_log)).exp()

    def _heads(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Input per head, B and C per group."""
        grouped = self.num_groups * self.d_state
        u, B, C = inputs.split([self.d_ssm, grouped, grouped], dim=-1)
        B, C = (t.unflatten(-1, (self.num_groups, self.d_state)) for t in (B, C))
        return u.unflatten(-1, (self.heads, self.head_dim)), B, C

    def _output(self, y: Tensor, z: Tensor, z_mlp: Tensor, x_mlp: Tensor) -> Tensor:
        y = y.flatten(-2)
        y = y * F.silu(z) if self.norm is None else self.norm(y, z)
        out: Tensor = self.out_proj(torch.cat([F.silu(z_mlp) * x_mlp, y], dim=-1))
        return out


def _check_sizes(d_inner: int, d_ssm: int, head_dim: int, num_groups: int, d_state: int) -> None:
    sizes = f"d_inner={d_inner}, d_ssm={d_ssm}, head_dim={head_dim}, num_groups={num_groups}, d_state={d_state}"
    if min(d_ssm, head_dim, num_groups, d_state) < 1 or d_ssm > d_inner:
        raise argument_error("mamba2 mixer", sizes, "sizes of at least 1, d_ssm at most d_inner", "correct the sizes")
    if d_ssm % head_dim or (d_ssm // head_dim) % num_groups:
        wanted = "head_dim that divides d_ssm, num_groups that divides the heads"
        raise argument_error("mamba2 mixer", sizes, wanted, "change head_dim or num_groups")
