"""PlainMamba's mixer: selective scans along four snakes, which know the move into each cell.

Equation, with u the convolved cells, ``o_k`` the orders and m_k(s) the move into cell ``o_k[s]`` (0 the start, 1 right,
2 left, 3 up, 4 down), all parameters shared by the directions::

    [u, z] = W_in x                        u = silu(conv2d(u))
    [δ, B, C] = W_x u                      Δ = softplus(W_Δ δ + b_Δ)
    h_s = exp(Δ_s A) h_{s-1} + Δ_s (B_s + Θ_{m_k(s)}) u[o_k[s]]     y_k[o_k[s]] = C_s h_s + D u[o_k[s]]
    y = W_out (Σ_k y_k ⊙ silu(z))

``selection="scanned"`` takes Δ, B and C of the cell that is visited, as the paper says; ``"raster"`` those of raster
cell s, whatever the order, as the released code does and its checkpoints need.

Source: Yang et al. 2024 (arXiv 2403.17695) and ``plain_mamba_layer.py`` of ChenhongyiYang/PlainMamba at 0975a1d0.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels import selective_scan
from seqconv_kernels._core.directions import spread, unscan
from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from ...layers.time_step import check_time_steps, reset_rates, reset_time_step_bias, time_step_rank
from ...parameters import KeepFloat32, set_optimizer_options
from ..directions import frame_orders, image_directions
from ..mixer_2d import Mixer2d, image_sizes, zero_padding_2d
from ..registry import register_2d
from ..scan_orders import moves
from .ss2d import depthwise_conv2d

SNAKES = ("snake", "snake_reversed", "snake_column", "snake_column_reversed")
SELECTIONS = ("scanned", "raster")
MOVES = 5
"""The start and four moves between neighbours."""

MOVE_INIT_STD = 0.02


@register_2d("plain_mamba", examples=({"selection": "raster", "d_state": 3, "d_conv": 3, "expand": 1, "bias": False},))
class PlainMamba2d(KeepFloat32, Mixer2d):
    """Selective scans along four snake orders, with an offset for the move into each cell (PlainMamba).

    Args:
        d_model: width of inputs and outputs.
        selection: ``"scanned"`` or ``"raster"``, see above.
        d_state: state size per channel.
        d_conv: rows and columns of the depthwise convolution, odd.
        expand: inner channels per input channel.
        dt_rank: width of the bottleneck in front of the time step; ``"auto"`` is ⌈d_model / 16⌉.
        conv_bias: whether the depthwise convolution has a bias.
        bias: whether the projections into and out of the mixer have biases.
        dt_min, dt_max: initial time steps are spread between them, evenly in their logarithm.
        dt_init_floor: least initial time step.

    Raises:
        ValueError: an unknown selection, an even ``d_conv``, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        selection: str = "scanned",
        d_state: int = 16,
        d_conv: int = 7,
        expand: int | float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        conv_bias: bool = True,
        bias: bool = True,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
    ) -> None:
        super().__init__(d_model)
        inner, rank = int(expand * d_model), time_step_rank(d_model, dt_rank)
        if min(inner, d_state, rank, d_conv) < 1 or d_conv % 2 == 0:
            got = f"d_state={d_state}, expand={expand}, dt_rank={dt_rank}, d_conv={d_conv}"
            raise argument_error(
                "plain_mamba 2-D mixer", got, "sizes of at least 1, an odd d_conv", "correct the sizes"
            )
        if selection not in SELECTIONS:
            raise unknown_name("plain_mamba 2-D mixer", "selection", selection, SELECTIONS)
        check_time_steps(dt_min, dt_max, dt_init_floor)
        self.selection, self.dt_range = selection, (dt_min, dt_max, dt_init_floor)
        self.sizes = [rank, d_state, d_state]
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=bias)
        self.conv2d = depthwise_conv2d(inner, d_conv, bias=conv_bias)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(rank, inner, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(inner))
        self.A_log = nn.Parameter(torch.empty(inner, d_state))
        self.D = nn.Parameter(torch.empty(inner))
        self.move_B = nn.Parameter(torch.empty(MOVES, d_state))
        self.out_proj = nn.Linear(inner, d_model, bias=bias)
        self.keep_float32("dt_bias", "A_log", "D")
        set_optimizer_options(self, "dt_bias", "A_log", "D", "move_B", weight_decay=0.0)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A = -(1 .. d_state), D = 1, time steps log-uniform in their range, small offsets of moves."""
        nn.init.uniform_(self.dt_proj.weight, -(self.sizes[0] ** -0.5), self.sizes[0] ** -0.5)
        reset_time_step_bias(self.dt_bias, *self.dt_range)
        if self.selection == "raster":
            self.dt_bias.mul_(2)  # the released code adds it twice
        reset_rates(self.A_log)
        self.D.fill_(1.0)
        nn.init.trunc_normal_(self.move_B, std=MOVE_INIT_STD)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u = self.conv2d(zero_padding_2d(u, mask).movedim(-1, 1)).movedim(1, -1)
        y: Tensor = self.out_proj(self._scan(nn.functional.silu(u), mask) * nn.functional.silu(z))
        return y

    def _scan(self, u: Tensor, mask: Tensor | None) -> Float[Tensor, "batch height width d_inner"]:
        """Σ_k y_k: one scan of the channels of all directions."""
        height, width = u.shape[1:3]
        cells, count = u.flatten(1, 2), len(SNAKES)
        along = image_directions(SNAKES, height, width, mask, u.device)
        selected = along
        if self.selection == "raster":
            selected = image_directions(("row",) * count, height, width, mask, u.device)
        low, B, C = spread(self.x_proj(cells), selected).split(self.sizes, dim=-1)
        A = -self.A_log.to(accumulation_dtype(self.A_log)).exp()
        B = B + self.move_B[self._moves(height, width, mask).to(u.device)]
        y = selective_scan(
            spread(cells, along).flatten(2), self.dt_proj(low).flatten(2), A.repeat(count, 1), B, C.contiguous(),
            self.D.repeat(count), delta_bias=self.dt_bias.repeat(count), delta_softplus=True,
        )  # fmt: skip
        assert isinstance(y, Tensor)
        total: Tensor = unscan(y.unflatten(-1, (count, -1)), along).sum(2).unflatten(1, (height, width))
        return total

    def _moves(self, height: int, width: int, mask: Tensor | None) -> Tensor:
        """The move into every cell of every scan, (rows, cells, directions); at padding it means nothing."""
        sizes = [(height, width)] if mask is None else image_sizes(mask)
        orders = [frame_orders(name, sizes, height, width)[0] for name in SNAKES]
        entered = [torch.stack([moves(order, width) for order in images]) for images in orders]
        return torch.stack(entered, dim=-1).clamp(max=MOVES - 1)
