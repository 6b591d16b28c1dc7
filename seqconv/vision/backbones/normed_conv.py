"""Projections and convolutions with batch norms, channels last: the layers of MobileMamba, AFFNet and XCiT's stem."""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.mlp import PLAIN
from ..mixers.ss2d import depthwise_conv2d


class ZeroBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose weights start at zero: at first the residual connection around it adds nothing."""

    def reset_parameters(self) -> None:
        """Also the running statistics."""
        super().reset_parameters()
        nn.init.zeros_(self.weight)


class NormedConv(nn.Module):
    """``norm(conv(x))`` without a bias, channels last: a projection of cells, or a depthwise convolution.

    Args:
        d_in, d_out: widths.
        size: rows and columns of the convolution.
        stride: cells from an output to the next.
        depthwise: every channel by itself.
        starts_at_zero: whether the initial weights of the norm are zero.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        size: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        starts_at_zero: bool = False,
    ) -> None:
        super().__init__()
        groups = d_in if depthwise else 1
        self.conv = nn.Conv2d(d_in, d_out, size, stride=stride, padding=size // 2, groups=groups, bias=False)
        self.norm = ZeroBatchNorm2d(d_out) if starts_at_zero else nn.BatchNorm2d(d_out)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch _ _ d_out"]:
        """Every cell, or every second."""
        y: Tensor = self.norm(self.conv(x.movedim(-1, 1))).movedim(1, -1)
        return y


class NormedMLP(nn.Module):
    """``norm(W_2 relu(norm(W_1 x)))`` of every cell, zero at first."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = NormedConv(d_model, hidden), NormedConv(hidden, d_model, starts_at_zero=True)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix the channels."""
        y: Tensor = self.down(F.relu(self.up(x)))
        return y


class LocalMix(nn.Module):
    """``x + conv(x)``, then ``x + mlp(x)``: a 3 by 3 depthwise convolution and an MLP with batch norms."""

    def __init__(self, d_model: int, *, starts_at_zero: bool = False) -> None:
        super().__init__()
        self.conv = NormedConv(d_model, d_model, size=3, depthwise=True, starts_at_zero=starts_at_zero)
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


class HalvingStem(nn.Module):
    """3 by 3 convolutions of stride 2 with batch norms, an activation between, until a cell has ``patch_size`` pixels.

    The last has the width d, the others d/2, d/4, … in front of it (MobileMamba, XCiT).

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis, a power of two.
        activation: ``"relu"`` or ``"gelu"``.

    Raises:
        ValueError: another patch size, a width that is no multiple of half of it.
    """

    def __init__(self, in_channels: int, d_model: int, patch_size: int, *, activation: str = "relu") -> None:
        super().__init__()
        count = patch_size.bit_length() - 1
        if patch_size < 2 or patch_size != 2**count or d_model % (patch_size // 2):
            got, wanted = f"patch_size={patch_size}, d_model={d_model}", "a power of two, a multiple of half of it"
            raise argument_error("HalvingStem", got, wanted, "take stem='patch'")
        self.activation = PLAIN[activation]
        widths = [in_channels, *(d_model // 2**index for index in reversed(range(count)))]
        self.layers = nn.ModuleList(NormedConv(d_in, d_out, size=3, stride=2) for d_in, d_out in pairwise(widths))

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells; a side is halved and rounded up."""
        x = images.movedim(1, -1)
        for index, layer in enumerate(self.layers):
            x = layer(self.activation(x) if index else x)
        return x
