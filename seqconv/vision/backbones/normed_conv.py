"""Projections and convolutions with batch norms, channels last: the layers of MobileMamba and AFFNet."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..mixers.ss2d import depthwise_conv2d


class NormedConv(nn.Module):
    """``norm(conv(x))`` without a bias, channels last: a projection of cells, or a depthwise convolution.

    Args:
        d_in, d_out: widths.
        size: rows and columns of the convolution.
        stride: cells from an output to the next.
        depthwise: every channel by itself.
    """

    def __init__(self, d_in: int, d_out: int, *, size: int = 1, stride: int = 1, depthwise: bool = False) -> None:
        super().__init__()
        groups = d_in if depthwise else 1
        self.conv = nn.Conv2d(d_in, d_out, size, stride=stride, padding=size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(d_out)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch _ _ d_out"]:
        """Every cell, or every second."""
        y: Tensor = self.norm(self.conv(x.movedim(-1, 1))).movedim(1, -1)
        return y


class NormedMLP(nn.Module):
    """``norm(W_2 relu(norm(W_1 x)))`` of every cell."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = NormedConv(d_model, hidden), NormedConv(hidden, d_model)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix the channels."""
        y: Tensor = self.down(F.relu(self.up(x)))
        return y


class LocalMix(nn.Module):
    """``x + conv(x)``, then ``x + mlp(x)``: a 3 by 3 depthwise convolution and an MLP with batch norms."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.conv = NormedConv(d_model, d_model, size=3, depthwise=True)
        self.mlp = NormedMLP(d_model, 2 * d_model)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix neighbouring cells, then channels."""
        x = x + self.conv(x)
        y: Tensor = x + self.mlp(x)
        return y


class LocalConv(nn.Module):
    """``norm(s ⊙ relu(norm(conv(x))))`` with a depthwise convolution."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.conv2d, self.norm = depthwise_conv2d(channels, size, bias=False), nn.BatchNorm2d(channels)
        self.scale, self.out_norm = depthwise_conv2d(channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Float[Tensor, "batch rows columns channels"]) -> Float[Tensor, "batch rows columns channels"]:
        """Mix neighbouring cells."""
        h = F.relu(self.norm(self.conv2d(x.movedim(-1, 1))))
        y: Tensor = self.out_norm(self.scale(h)).movedim(1, -1)
        return y
