"""Vim's block: a selective state space in both directions between one pair of projections.

Equation, with ``rev`` the reversal of the sequence and scan_k the selective scan of :mod:`.mamba` with its gate::

    [u, z] = W_in x
    y_f = scan_f(silu(conv_f(u)), z)            y_b = rev scan_b(silu(conv_b(rev u)), rev z)
    y = W_out (y_f + y_b)                       version "v2": all but the projections twice; may be halved
    y_b = rev scan_b(rev silu(conv_f(u)), rev z)    version "v1": only A is there twice
    [u, z, u', z'] = W_in x,   y_b = rev scan_f(silu(conv_f(rev u')), rev z'),   y = W_out [y_f, y_b]
                                                    version "decomposed": only the projections are there twice

There is no state: an output depends on the whole sequence.

Source: Zhu et al. 2024 (arXiv 2401.09417) and ``mamba-1p1p1/mamba_ssm/modules/mamba_simple.py`` of hustvl/Vim at
dd0358a; "decomposed": Chen et al. 2024, "Video Mamba Suite" (arXiv 2403.09626) and ``mamba_ssm/modules/mamba_new.py``
of OpenGVLab/video-mamba-suite at ec9108b7.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from seqconv_kernels import selective_scan
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.operator.operators import is_observed
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.initialisation import reset_residual_projection
from ...layers.linear import Linear
from ...layers.short_convolution import ShortConvolution
from ...layers.time_step import (
    check_time_step_projection,
    check_time_steps,
    reset_rates,
    reset_time_step_bias,
    reset_time_step_projection,
    time_step_rank,
)
from ...mixer import Mixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State
from ...types import LayerContext, StateKind

VERSIONS = ("v2", "v1", "decomposed")
SEGMENT = 1024
"""Least tokens of a segment in inference on the CPU: projections of fewer rows take longer."""


class Selection(nn.Module):
    """Time step before bias and softplus, input and output weights of every token, from its inner channels."""

    def __init__(self, d_inner: int, d_state: int, dt_rank: int) -> None:
        super().__init__()
        self.sizes = [dt_rank, d_state, d_state]
        self.x_proj = Linear(d_inner, sum(self.sizes), bias=False)
        self.dt_proj = Linear(dt_rank, d_inner, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projection of the time step within ± the inverse root of its rank."""
        bound = self.sizes[0] ** -0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From (batch, length, d_inner)."""
        low, B, C = self.x_proj(u).split(self.sizes, dim=-1)
        return self.dt_proj(low), B, C


@register(
    "vim",
    examples=(
        {"d_state": 3, "d_conv": 3, "expand": 1, "dt_rank": 5, "halve": False},
        {"d_state": 4, "version": "v1", "conv_bias": False, "bias": True},
        {"d_state": 3, "version": "decomposed", "expand": 1},
    ),
)
class Vim(Mixer):
    """Selective state space over the past and over the future (Vision Mamba).

    Args:
        d_model: width of inputs and outputs.
        version: ``"v2"``, a convolution and a scan for each direction; ``"v1"``, where they differ in A alone; or
            ``"decomposed"``, where they differ in their projections alone.
        halve: take the mean of the directions instead of their sum (``"decomposed"``: halve them); ``None`` halves
            version 2 alone.
        d_state: state size per channel.
        d_conv: taps of the short convolution.
        expand: inner channels per input channel.
        dt_rank: width of the bottleneck in front of the time step; ``"auto"`` is ⌈d_model / 16⌉.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init: initial ``W_Δ`` of the forward direction: ``"random"`` (uniform) or ``"constant"``.
        dt_scale: multiplies its size.
        dt_init_floor: least initial time step.
        conv_bias: whether the short convolution has a bias.
        bias: whether the projections into and out of the mixer have biases.
        layer: place in a stack; the initial output projection shrinks with its depth.

    Raises:
        ValueError: an unknown version, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        version: str = "v2",
        halve: bool | None = None,
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
        layer: LayerContext | None = None,
    ) -> None:
        super().__init__(d_model, causal=False)
        if version not in VERSIONS:
            raise unknown_name("vim mixer", "version", version, VERSIONS)
        inner, rank = int(expand * d_model), time_step_rank(d_model, dt_rank)
        if min(inner, d_state, rank) < 1:
            got = f"d_state={d_state}, expand={expand}, dt_rank={dt_rank}"
            raise argument_error("vim mixer", got, "sizes of at least 1", "raise the sizes")
        check_time_steps(dt_min, dt_max, dt_init_floor)
        check_time_step_projection("vim mixer", dt_init)
        self.dt_range, self.layer = (dt_min, dt_max, dt_init_floor), layer
        self.dt_init, self.dt_scale = dt_init, dt_scale
        self.halve = version == "v2" if halve is None else halve
        self.decomposed, sets = version == "decomposed", 2 if version == "v2" else 1
        projected = 2 if self.decomposed else 1
        self.in_proj = Linear(d_model, 2 * projected * inner, bias=bias)
        self.conv1d = nn.ModuleList(ShortConvolution(inner, d_conv, bias=conv_bias) for _ in range(sets))
        self.selection = nn.ModuleList(Selection(inner, d_state, rank) for _ in range(sets))
        self.dt_bias = nn.Parameter(torch.empty(sets, inner))
        self.A_log = nn.Parameter(torch.empty(1 if self.decomposed else 2, inner, d_state))
        self.D = nn.Parameter(torch.empty(sets, inner))
        self.out_proj = Linear(projected * inner, d_model, bias=bias)
        self.keep_float32("dt_bias", "A_log", "D")
        set_optimizer_options(self, "dt_bias", "A_log", "D", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -(1 .. d_state), D = 1, time steps log-uniform in their range, the output projection by the depth.

        The time steps of the reversed direction of version 2 have no bias at first, as in Vim, which sets those of all
        projections to zero but for the marked ones of the forward direction.
        """
        first: nn.Linear = self.selection[0].dt_proj  # type: ignore[assignment]  # a ModuleList is typed as of Modules
        reset_time_step_projection(first.weight, self.dt_init, self.dt_scale)
        reset_time_step_bias(self.dt_bias, *self.dt_range)
        self.dt_bias[1:].zero_()
        reset_rates(self.A_log)
        self.D.fill_(1.0)
        reset_residual_projection(self.out_proj, self.layer)

    @property
    def state_kind(self) -> StateKind:
        """There is no state: every output depends on the whole sequence."""
        return "none"

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self._runs_in_segments(x):
            return self._in_segments(x, mask)
        if self.decomposed:
            u, z, u_back, z_back = self.in_proj(x).chunk(4, dim=-1)
        else:
            u, z = u_back, z_back = self.in_proj(x).chunk(2, dim=-1)
        # The first direction is finished before the second begins, which takes its memory where nothing is learned.
        selected, _ = self._select(0, u, mask)
        forth, _ = self._scan(0, selected, z)
        if len(self.conv1d) == 2 or self.decomposed:
            selected = ()
            selected, _ = self._select(-1, u_back, mask, reverse=True)
        back, _ = self._scan(-1, selected, z_back, reverse=True)
        selected = ()
        if self.decomposed:
            both = torch.cat([forth, back], dim=-1)
            both = both / 2 if self.halve else both
        else:
            both = self._merge(forth, back)
        mixed: Tensor = self.out_proj(both)
        return mixed

    def _merge(self, forth: Tensor, back: Tensor) -> Tensor:
        return torch.lerp(forth, back, 0.5) if self.halve else forth + back

    def _select(
        self, k: int, u: Tensor, mask: Tensor | None, state: Tensor | None = None, *, reverse: bool = False
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The convolved inputs and what is selected from them; the last inputs."""
        convolved, state = self.conv1d[k](zero_padding(u, mask), state, reverse=reverse)
        convolved = zero_padding(convolved, mask)
        return (convolved, *self.selection[k](convolved)), state

    def _scan(
        self, k: int, selected: tuple[Tensor, ...], z: Tensor, state: Tensor | None = None, *, reverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        u, delta, B, C = selected
        A = -self.A_log[k].to(accumulation_dtype(self.A_log)).exp()
        y, state = selective_scan(
            u, delta, A, B, C, self.D[k], z, delta_bias=self.dt_bias[k], delta_softplus=True,
            initial_state=state, return_final_state=True, reverse=reverse,
        )  # fmt: skip
        return y, state

    def _runs_in_segments(self, x: Tensor) -> bool:
        """Whether :meth:`_in_segments` is meant: long inputs on the CPU, where nothing is learned.

        Hooks of the children, and tools, see the whole sequence.
        """
        if x.shape[1] < 2 * SEGMENT or torch.is_grad_enabled() or x.device.type != "cpu" or len(self.conv1d) == 1:
            return False
        inner = (module for module in self.modules() if module is not self)
        return not is_observed() and not any(m._forward_hooks or m._forward_pre_hooks for m in inner)

    def _in_segments(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The same, segment after segment in each direction: what is between the projections of one is in memory."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        size = math.ceil(x.shape[1] / (x.shape[1] // SEGMENT))
        segments = [slice(start, start + size) for start in range(0, x.shape[1], size)]
        masks = dict.fromkeys(range(len(segments))) if mask is None else dict(enumerate(mask.split(size, dim=1)))
        forth, conv, ssm = u.new_empty(u.shape), None, None
        for i, segment in enumerate(segments):
            selected, conv = self._select(0, u[:, segment], masks[i], conv)
            forth[:, segment], ssm = self._scan(0, selected, z[:, segment], ssm)
        mixed: Tensor | None = None
        conv = ssm = None
        for i, segment in reversed(list(enumerate(segments))):
            selected, conv = self._select(-1, u[:, segment], masks[i], conv, reverse=True)
            back, ssm = self._scan(-1, selected, z[:, segment], ssm, reverse=True)
            y: Tensor = self.out_proj(self._merge(forth[:, segment], back))
            mixed = y.new_empty(*x.shape[:2], y.shape[-1]) if mixed is None else mixed
            mixed[:, segment] = y
        assert mixed is not None
        return mixed

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        raise NotImplementedError

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        raise NotImplementedError

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError
