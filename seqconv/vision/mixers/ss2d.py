"""SS2D, the mixer of VMamba: selective scans along several orders of the image.

Equation, with E inner channels, K directions of orders ``o_k``, each with x_proj, W_Δ, A, D of its own::

    [u, z] = W_in x                                u = silu(conv2d(u))
    [δ_k, B_k, C_k] = W_k u                        Δ_k = softplus(W_Δ,k δ_k + b_Δ,k)
    h_s = exp(Δ_s A_k) h_{s-1} + Δ_s B_s u[o_k[s]]     y_k[o_k[s]] = C_s h_s + D_k u[o_k[s]]
    y = W_out (norm(Σ_k y_k) ⊙ φ(z))

The projections of a cell do not depend on the order, so that they are computed once, on the image. All directions are
one scan, whose inputs and outputs stay at their cells.

Published variants, by the forward types of the original: ``v0`` is ``gate="silu"`` with ``conv_bias=True``, ``v05`` the
same equation, ``v05_noz`` (all released second-generation models) ``gate="none"``, ``_nozact`` ``gate="linear"``.

Source: Liu et al. 2024 (arXiv 2401.10166) and ``vmamba.py`` of MzeroMiko/VMamba at 2ed52ead.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from seqconv_kernels import cross_selective_scan
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.grouped_linear import GroupedLinear
from ...layers.linear import KeptLinear, Linear
from ...layers.norms import LayerNorm
from ...layers.residual import Dropout
from ...layers.time_step import (
    check_time_step_projection,
    check_time_steps,
    reset_rates,
    reset_time_step_bias,
    reset_time_step_projection,
    time_step_rank,
)
from ...parameters import KeepFloat32, set_optimizer_options
from ..backbones.cell_norm import CellBatchNorm
from ..directions import image_orders
from ..mixer_2d import Mixer2d, zero_padding_2d
from ..registry import register_2d
from ..scan_orders import check_scan_order
from .scan import CROSS

GATES = ("silu", "linear", "none")
INITIALISATIONS = ("s4d", "normal", "uniform")
SMALL_INIT = 0.1
CROSS_SCAN = ("row", "column", "row_reversed", "column_reversed")
"""VMamba's directions, in the order of its parameters."""

assert set(CROSS_SCAN) == set(CROSS)


@register_2d(
    "ss2d",
    examples=(
        {"gate": "none", "d_state": 1, "expand": 1, "conv_bias": False},
        {"gate": "linear", "d_state": 3, "d_conv": 1, "dt_rank": 2, "orders": ["snake", "hilbert_reversed"]},
    ),
)
class SS2D(KeepFloat32, Mixer2d):
    """Selective state space along several scan orders of the image (VMamba).

    Args:
        d_model: width of inputs and outputs.
        d_state: state size per channel and direction.
        d_conv: rows and columns of the depthwise convolution in front of the scan, odd; 1 leaves it out.
        expand: inner channels per input channel.
        dt_rank: width of the bottleneck in front of the time step; ``"auto"`` is ⌈d_model / 16⌉.
        gate: activation of the gate ``z``: ``"silu"``, ``"linear"``, or ``"none"`` without a gate.
        conv_bias: whether the depthwise convolution has a bias.
        bias: whether the projections into and out of the mixer have biases.
        orders: scan orders, see :mod:`~seqconv.vision.scan_orders`.
        normed_projections: batch norms after the projections into and out of the mixer (MobileMamba).
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init: initial ``W_Δ``: ``"random"`` (uniform) or ``"constant"``.
        dt_scale: multiplies its size.
        dt_init_floor: least initial time step.
        initialisation: ``"s4d"``: A = -(1 .. d_state) and these time steps; ``"normal"``, ``"uniform"``: A = -exp of a
            standard normal number, or -1, the projection to the time steps and their bias of a tenth of the
            distribution (``initialize`` ``v0``, ``v1``, ``v2`` of the original).
        dropout: probability for the outputs.

    Raises:
        ValueError: no or unknown orders, an unknown gate, an even ``d_conv``, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 3,
        expand: int | float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        gate: str = "silu",
        conv_bias: bool = True,
        bias: bool = False,
        orders: Sequence[str] = CROSS_SCAN,
        normed_projections: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        initialisation: str = "s4d",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model)
        self.d_inner, self.d_state = int(expand * d_model), d_state
        self.dt_rank = time_step_rank(d_model, dt_rank)
        if min(self.d_inner, d_state, self.dt_rank) < 1 or d_conv < 1 or d_conv % 2 == 0:
            got = f"d_state={d_state}, expand={expand}, dt_rank={dt_rank}, d_conv={d_conv}"
            raise argument_error("ss2d 2-D mixer", got, "sizes of at least 1, an odd d_conv", "correct the sizes")
        if gate not in GATES:
            raise unknown_name("ss2d 2-D mixer", "gate", gate, GATES)
        if initialisation not in INITIALISATIONS:
            raise unknown_name("ss2d 2-D mixer", "initialisation", initialisation, INITIALISATIONS)
        if not orders or isinstance(orders, str):
            wanted, remedy = "a list of at least one scan order", "pass orders=['row']"
            raise argument_error("ss2d 2-D mixer", f"orders={orders!r}", wanted, remedy)
        check_time_steps(dt_min, dt_max, dt_init_floor)
        check_time_step_projection("ss2d 2-D mixer", dt_init)
        self.dt_init, self.dt_scale = dt_init, dt_scale
        self.initialisation, self.gate, self.orders = (
            initialisation,
            gate,
            tuple(check_scan_order(name) for name in orders),
        )
        self.dt_range, directions = (dt_min, dt_max, dt_init_floor), len(self.orders)
        inner = self.d_inner
        # Originals stack the projections to the selection in a parameter, and have convolutions next to batch norms.
        projection = KeptLinear if normed_projections else Linear
        self.in_proj = projection(d_model, inner if gate == "none" else 2 * inner, bias=bias)
        self.conv2d = depthwise_conv2d(inner, d_conv, bias=conv_bias) if d_conv > 1 else None
        self.x_proj = KeptLinear(inner, directions * (self.dt_rank + 2 * d_state), bias=False)
        self.dt_proj = GroupedLinear(directions, self.dt_rank, inner)
        self.dt_bias = nn.Parameter(torch.empty(directions, inner))
        self.A_log = nn.Parameter(torch.empty(directions, inner, d_state))
        self.D = nn.Parameter(torch.empty(directions, inner))
        self.out_norm = LayerNorm(inner)
        self.out_proj = projection(inner, d_model, bias=bias)
        # Batch norms act on channels last: they are part of the projections.
        self.in_proj_norm = CellBatchNorm(self.in_proj.out_features) if normed_projections else None
        self.out_proj_norm = CellBatchNorm(d_model) if normed_projections else None
        self.dropout = Dropout(dropout)
        self.keep_float32("dt_bias", "A_log", "D")
        set_optimizer_options(self, "dt_bias", "A_log", "D", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -(1 .. d_state), D = 1, time steps log-uniform in their range; or see ``initialisation``."""
        self.D.fill_(1.0)
        if self.initialisation != "s4d":
            normal = self.initialisation == "normal"
            self.A_log.normal_() if normal else self.A_log.zero_()
            for parameter in (self.dt_proj.weight, self.dt_bias):
                parameter.normal_(std=SMALL_INIT) if normal else parameter.uniform_(0.0, SMALL_INIT)
            return
        reset_time_step_projection(self.dt_proj.weight, self.dt_init, self.dt_scale)
        reset_time_step_bias(self.dt_bias, *self.dt_range)
        reset_rates(self.A_log)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        u = self.in_proj(x)
        u = u if self.in_proj_norm is None else self.in_proj_norm(u)
        z = None
        if self.gate != "none":
            u, z = u.chunk(2, dim=-1)
        if self.conv2d is not None:
            u = self.conv2d(zero_padding_2d(u, mask).movedim(-1, 1)).movedim(1, -1)
        y = self.out_norm(self._scan(nn.functional.silu(u), mask))
        if z is not None:
            y = y * (nn.functional.silu(z) if self.gate == "silu" else z)
        mixed = self.out_proj(y)
        mixed = mixed if self.out_proj_norm is None else self.out_proj_norm(mixed)
        dropped: Tensor = self.dropout(mixed)
        return dropped

    def _scan(self, u: Tensor, mask: Tensor | None) -> Tensor:
        """Σ_k y_k, (batch, height, width, d_inner)."""
        height, width = u.shape[1:3]
        cells = u.flatten(1, 2)
        selection = self.x_proj(cells).unflatten(-1, (len(self.orders), -1))
        low, B, C = selection.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        A = -self.A_log.to(accumulation_dtype(self.A_log)).exp()
        orders = image_orders(self.orders, height, width, mask, u.device)
        y = cross_selective_scan(
            cells, self.dt_proj(low), A, B, C, self.D,
            orders=orders, delta_bias=self.dt_bias, delta_softplus=True,
        )  # fmt: skip
        total: Tensor = y.unflatten(1, (height, width))
        return total


def depthwise_conv2d(channels: int, size: int, *, bias: bool = True) -> nn.Conv2d:
    """A centred convolution of every channel by itself, ``size`` by ``size``, zeros around the image."""
    return nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels, bias=bias)
