"""Mamba: a selective state space, whose time step and input and output weights depend on the token.

Equation, with E inner channels and a state of N numbers for each::

    [u, z] = W_in x                          u = silu(conv(u))
    [δ, B, C] = W_x u                        Δ = softplus(W_Δ δ + b_Δ)
    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t   A = -exp(A_log), real, one row per channel
    y = W_out ((C_t h_t + D u_t) silu(z))

Source: Gu and Dao 2023 (arXiv 2312.00752) and the code of state-spaces/mamba. b_Δ is a parameter of the mixer
(``dt_bias``) and not of the projection W_Δ: the scan adds it in float32, as a time step of 1e-3 needs. Padding enters
the state with a zero input, which leaves a zero state as it is.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import selective_scan, selective_scan_step
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype
from seqconv_kernels.token_program import Rows

from ...decoding.fused import StepProgram
from ...layers.initialisation import reset_residual_projection
from ...layers.linear import Linear
from ...layers.norms import RMSNorm
from ...layers.short_convolution import ShortConvolution
from ...layers.time_step import (
    check_time_step_projection,
    check_time_steps,
    reset_rates,
    reset_time_step_bias,
    reset_time_step_projection,
    time_step_rank,
)
from ...mixer import ScanMixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State, state_class
from ...types import LayerContext


@state_class
class MambaState(State):
    """The last inputs of the short convolution, oldest first, and the state of the scan."""

    conv: Float[Tensor, "batch reach channels"]
    ssm: Float[Tensor, "batch channels d_state"]


@register(
    "mamba",
    examples=(
        {"d_state": 3, "d_conv": 3, "expand": 1, "dt_rank": 5, "bias": True, "conv_bias": False, "dt_init": "constant"},
        {"d_state": 4, "parameter_norm": "weighted"},
        {"d_state": 4, "parameter_norm": "plain", "d_conv": 2},
    ),
)
class Mamba(ScanMixer[MambaState]):
    """Selective state space with a real diagonal of its own for every channel.

    Args:
        d_model: width of inputs and outputs.
        d_state: state size per channel.
        d_conv: taps of the short convolution.
        expand: inner channels per input channel.
        dt_rank: width of the bottleneck in front of the time step; ``"auto"`` is ⌈d_model / 16⌉.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init: initial ``W_Δ``: ``"random"`` (uniform) or ``"constant"``.
        dt_scale: multiplies the size of the initial ``W_Δ``.
        dt_init_floor: least initial time step.
        conv_bias: whether the short convolution has a bias.
        bias: whether the projections into and out of the mixer have biases.
        parameter_norm: root-mean-square norm on δ, B and C: ``"none"``, ``"plain"`` (FalconMamba), or ``"weighted"``
            with learned weights (Jamba).
        parameter_norm_eps: ε of that norm.
        layer: place in a stack; the initial output projection shrinks with its depth.

    Raises:
        ValueError: an unknown name among the options, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int | float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        parameter_norm: str = "none",
        parameter_norm_eps: float = 1e-6,
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_inner, self.d_state = int(expand * d_model), d_state
        self.dt_rank = time_step_rank(d_model, dt_rank)
        if min(self.d_inner, d_state, self.dt_rank) < 1:
            got = f"d_state={d_state}, expand={expand}, dt_rank={dt_rank}"
            raise argument_error("mamba mixer", got, "sizes of at least 1", "raise the sizes")
        check_time_step_projection("mamba mixer", dt_init)
        check_time_steps(dt_min, dt_max, dt_init_floor)
        self.dt_init, self.dt_scale, self.dt_range = dt_init, dt_scale, (dt_min, dt_max, dt_init_floor)
        self.parameter_norm, self.layer = parameter_norm, layer
        self.in_proj = Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = ShortConvolution(self.d_inner, d_conv, bias=conv_bias)
        self.x_proj = Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_norm, self.B_norm, self.C_norm = (
            _create_norm(parameter_norm, width, parameter_norm_eps) for width in (self.dt_rank, d_state, d_state)
        )
        self.dt_proj = Linear(self.dt_rank, self.d_inner, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(self.d_inner))
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = Linear(self.d_inner, d_model, bias=bias)
        self.keep_float32("dt_bias", "A_log", "D")
        set_optimizer_options(self, "dt_bias", "A_log", "D", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -(1 .. d_state), D = 1, time steps log-uniform in their range, the output projection by the depth."""
        reset_time_step_projection(self.dt_proj.weight, self.dt_init, self.dt_scale)
        reset_time_step_bias(self.dt_bias, *self.dt_range)
        reset_rates(self.A_log)
        self.D.fill_(1.0)
        reset_residual_projection(self.out_proj, self.layer)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        ssm = torch.zeros(batch_size, self.d_inner, self.d_state, device=device, dtype=wide)
        return MambaState(self.conv1d.init_state(batch_size, device, dtype), ssm)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, MambaState)
        u, z = self.in_proj(x_t).chunk(2, dim=-1)
        u, conv = self.conv1d.step(u, state.conv)
        delta, B, C = self._selection(u)
        y, ssm = selective_scan_step(
            u, delta, self._A(), B, C, self.D, z, state=state.ssm, delta_bias=self.dt_bias, delta_softplus=True
        )
        return self.out_proj(y), MambaState(conv, ssm)

    def _write_step(self, program: StepProgram, x: Rows, state: State) -> State:
        assert isinstance(state, MambaState)
        channels, rank = self.d_inner, self.dt_rank
        uz = program.write_linear(self.in_proj, x)
        u, conv = program.write_conv(self.conv1d, uz, state.conv)
        low = program.write_linear(self.x_proj, u)
        B, C = low.columns(rank), low.columns(rank + self.d_state)
        if self.parameter_norm != "none":
            for norm, rows, width in (
                (self.dt_norm, low, rank),
                (self.B_norm, B, self.d_state),
                (self.C_norm, C, self.d_state),
            ):
                program.write_norm(norm, rows, rows, width)
        delta, y, ssm = program.write_linear(self.dt_proj, low), program.buffer(channels), program.state(state.ssm)
        program.scan(u, delta, B, C, uz.columns(channels), y, self.A_log, self.dt_bias, self.D, ssm)
        program.write_linear(self.out_proj, y, program.stream, residual=program.stream)
        return MambaState(conv, ssm)

    def _scan_from(self, x: Tensor, state: MambaState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, conv = self.conv1d(zero_padding(u, mask), None if state is None else state.conv)
        u = zero_padding(u, mask)
        delta, B, C = self._selection(u)
        pair = selective_scan(
            u, delta, self._A(), B, C, self.D, z,
            delta_bias=self.dt_bias, delta_softplus=True,
            initial_state=None if state is None else state.ssm, return_final_state=True,
        )  # fmt: skip
        assert isinstance(pair, tuple)
        return self.out_proj(pair[0]), MambaState(conv, pair[1])

    def _A(self) -> Tensor:
        return -self.A_log.to(accumulation_dtype(self.A_log)).exp()

    def _selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Time step before bias and softplus, input weights and output weights of every token."""
        low, B, C = self.x_proj(u).split_with_sizes((self.dt_rank, self.d_state, self.d_state), dim=-1)
        if self.parameter_norm == "none":
            return self.dt_proj(low), B, C
        return self.dt_proj(self.dt_norm(low)), self.B_norm(B), self.C_norm(C)


def _create_norm(kind: str, width: int, eps: float) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind not in ("plain", "weighted"):
        raise unknown_name("mamba mixer", "parameter_norm", kind, ("none", "plain", "weighted"))
    return RMSNorm(width, eps=eps, affine=kind == "weighted")
