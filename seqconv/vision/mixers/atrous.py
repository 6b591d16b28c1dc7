"""EfficientVMamba's mixers: a scan that skips cells, and the same next to a convolution.

``"atrous"``, with E inner channels and four selective scans s_k, each of one of the sub-grids of every second row and
column, so that every cell is scanned once::

    [a, z] = W_in x        u = silu(conv(a)), padded with zeros to even sizes
    y_k = s_k(u of sub-grid k)        (0, 0) and (0, 1) of (row, column) by rows, (1, 0) and (1, 1) by columns
    y = W_out (norm(y_0 … y_3 at their cells) ⊙ silu(z))

``"efficient_vmamba"``: ``g(atrous(x)) + g(W gelu(norm(conv(x))))`` with a batch norm and one gate g for both,
``g(v) = v ⊙ σ(W_2 gelu(W_1 mean(norm(v))))``.

Source: Pei et al. 2024 (arXiv 2403.09977), ``efficient_mamba.py`` and ``efficient_scan.py`` of TerryPei/EfficientVMamba
at 0bc5ee28.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import KeptLinear, Linear
from ...layers.norms import LayerNorm
from ...layers.time_step import time_step_rank
from ..mixer_2d import Mixer2d, by_size
from ..registry import register_2d
from .selective import SelectiveScan
from .ss2d import depthwise_conv2d

SUB_GRIDS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""First row and column of each, in the order of the parameters; those of odd rows are scanned by columns."""

GATE_REDUCTION = 8


@register_2d("atrous", examples=({"d_state": 1, "expand": 1, "d_conv": 1},))
class Atrous2d(Mixer2d):
    """Selective scans of four sub-grids (EfficientVMamba).

    Args:
        d_model: width of inputs and outputs.
        d_state: state size per channel.
        d_conv: rows and columns of the depthwise convolution, odd.
        expand: inner channels per input channel.
        dt_rank: width of the bottleneck in front of the time step; ``"auto"`` is ⌈d_model / 16⌉.
        conv_bias: whether the depthwise convolution has a bias.
        bias: whether the projections into and out of the mixer have biases.

    Raises:
        ValueError: an even ``d_conv``, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 3,
        expand: int | float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        conv_bias: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(d_model)
        inner, rank = int(expand * d_model), time_step_rank(d_model, dt_rank)
        if min(inner, d_state, rank, d_conv) < 1 or d_conv % 2 == 0:
            got = f"d_state={d_state}, expand={expand}, dt_rank={dt_rank}, d_conv={d_conv}"
            raise argument_error("atrous 2-D mixer", got, "sizes of at least 1, an odd d_conv", "correct the sizes")
        self.in_proj = Linear(d_model, 2 * inner, bias=bias)
        self.conv2d = depthwise_conv2d(inner, d_conv, bias=conv_bias)
        self.scan = SelectiveScan(inner, groups=len(SUB_GRIDS), d_state=d_state, dt_rank=rank)
        self.norm = LayerNorm(inner)
        self.out_proj = Linear(inner, d_model, bias=bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self._mix, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        a, z = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(self.conv2d(a.movedim(-1, 1))).movedim(1, -1)
        u = F.pad(u, (0, 0, 0, width % 2, 0, height % 2))
        grids = [_by_direction(u[:, i::2, j::2], i) for i, j in SUB_GRIDS]
        scanned = self.scan(torch.stack([grid.flatten(1, 2) for grid in grids], dim=2))
        found = [
            _by_direction(scanned[:, :, k].unflatten(1, grid.shape[1:3]), row)
            for k, (grid, (row, _)) in enumerate(zip(grids, SUB_GRIDS, strict=True))
        ]
        rows = [torch.stack(found[k::2], dim=3).flatten(2, 3) for k in (0, 1)]  # columns of even and of odd rows
        y = torch.stack(rows, dim=2).flatten(1, 2)[:, :height, :width]
        mixed: Tensor = self.out_proj(self.norm(y) * F.silu(z))
        return mixed


def _by_direction(grid: Tensor, first_row: int) -> Tensor:
    """The grid itself, or transposed where it is scanned by columns; its own inverse."""
    return grid.transpose(1, 2) if first_row else grid


@register_2d("efficient_vmamba", examples=({"d_state": 1, "expand": 1},))
class EfficientVMamba2d(Mixer2d):
    """An atrous scan and a convolution, each with the same gate per channel (EfficientVMamba).

    Args:
        d_model: width of inputs and outputs, at least 8.
        d_state, d_conv, expand, dt_rank: of the scan, see :class:`Atrous2d`.

    Raises:
        ValueError: as :class:`Atrous2d`; a width below 8.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 3,
        expand: int | float = 2,
        dt_rank: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(d_model)
        if d_model < GATE_REDUCTION:
            got, wanted = f"d_model={d_model}", f"at least {GATE_REDUCTION}"
            raise argument_error("efficient_vmamba 2-D mixer", got, wanted, "widen the model")
        self.atrous = Atrous2d(d_model, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank)
        self.conv2d, self.conv_norm = depthwise_conv2d(d_model, 3), nn.BatchNorm2d(d_model)
        self.conv_proj = KeptLinear(d_model, d_model)
        self.gate = ChannelGate(d_model, d_model // GATE_REDUCTION)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return by_size(self._mix, x, mask)

    def _mix(self, x: Tensor) -> Tensor:
        local = self.conv_norm(self.conv2d(x.movedim(-1, 1))).movedim(1, -1)
        y: Tensor = self.gate(self.atrous(x)) + self.gate(self.conv_proj(F.gelu(local)))
        return y


class ChannelGate(nn.Module):
    """``x ⊙ σ(W_2 gelu(W_1 mean(norm(x))))``."""

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.norm = LayerNorm(channels)
        self.down, self.up = Linear(channels, narrow), Linear(narrow, channels)

    def forward(self, x: Float[Tensor, "batch rows columns channels"]) -> Float[Tensor, "batch rows columns channels"]:
        """Weigh the channels of whole images."""
        mean = self.norm(x).mean((1, 2), keepdim=True)
        weights: Tensor = self.up(F.gelu(self.down(mean))).sigmoid()
        return x * weights
