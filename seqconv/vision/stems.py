"""From pixels to cells, and from cells to fewer cells: patch embeddings and downsampling of hierarchical backbones.

``(batch, channels, height, width)`` pixels to ``(batch, rows, columns, d_model)`` cells:

==========  ==========================================================================
``patch``   one convolution of patches next to each other, layer norm (Swin, VMamba v1)
``conv``    two 3 by 3 convolutions of stride 2 with layer norms, GELU between (VMamba v2)
==========  ==========================================================================

Cells to a quarter of them:

=========  ==============================================================================
``merge``  2 by 2 cells as one, layer norm, projection (Swin's patch merging, VMamba v1)
``conv``   3 by 3 convolution of stride 2, layer norm (VMamba v3)
=========  ==============================================================================

Source: ``vmamba.py`` of MzeroMiko/VMamba at 2ed52ead, whose merging takes even sizes alone; here odd ones are padded
with zeros on the right and at the bottom, as in Swin.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ..layers.norms import LayerNorm


class PatchStem(nn.Module):
    """One convolution of ``patch_size`` and stride ``patch_size``, and a layer norm.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis; pixels that fill no cell are left out.
    """

    def __init__(self, in_channels: int, d_model: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, d_model, patch_size, stride=patch_size)
        self.norm = LayerNorm(d_model)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        cells: Tensor = self.norm(self.proj(images).movedim(1, -1))
        return cells


class ConvStem(nn.Module):
    """Two convolutions of stride ``patch_size / 2`` with layer norms, half the width and a GELU between.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis: 4, the size that was checked.

    Raises:
        ValueError: another patch size.
    """

    def __init__(self, in_channels: int, d_model: int, patch_size: int) -> None:
        super().__init__()
        if patch_size != 4:
            raise argument_error("ConvStem", f"patch_size={patch_size}", "4", "take stem='patch'")
        self.conv1 = nn.Conv2d(in_channels, d_model // 2, 3, stride=2, padding=1)
        self.norm1 = LayerNorm(d_model // 2)
        self.conv2 = nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1)
        self.norm2 = LayerNorm(d_model)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        hidden = F.gelu(self.norm1(self.conv1(images).movedim(1, -1)))
        cells: Tensor = self.norm2(self.conv2(hidden.movedim(-1, 1)).movedim(1, -1))
        return cells


class PatchMerging(nn.Module):
    """2 by 2 cells side by side, in the order (0, 0), (1, 0), (0, 1), (1, 1) of (row, column), normed and projected."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * d_in)
        self.proj = nn.Linear(4 * d_in, d_out, bias=False)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch half_rows half_columns d"]:
        """Half of the rows and columns, rounded up."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        merged = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], dim=-1)
        y: Tensor = self.proj(self.norm(merged))
        return y


class ConvDownsample(nn.Module):
    """A 3 by 3 convolution of stride 2, and a layer norm."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(d_in, d_out, 3, stride=2, padding=1)
        self.norm = LayerNorm(d_out)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch half_rows half_columns d"]:
        """Half of the rows and columns, rounded up."""
        y: Tensor = self.norm(self.conv(x.movedim(-1, 1)).movedim(1, -1))
        return y


STEMS: Mapping[str, Callable[[int, int, int], nn.Module]] = {"patch": PatchStem, "conv": ConvStem}
DOWNSAMPLINGS: Mapping[str, Callable[[int, int], nn.Module]] = {"merge": PatchMerging, "conv": ConvDownsample}


def create_stem(name: str, in_channels: int, d_model: int, patch_size: int) -> nn.Module:
    """Build a patch embedding by name.

    Raises:
        ValueError: an unknown name (the nearest are named), a patch size that it does not have.
    """
    if name not in STEMS:
        raise unknown_name("create_stem", "stem", name, STEMS)
    return STEMS[name](in_channels, d_model, patch_size)


def create_downsampling(name: str, d_in: int, d_out: int) -> nn.Module:
    """Build a downsampling by name.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    if name not in DOWNSAMPLINGS:
        raise unknown_name("create_downsampling", "downsampling", name, DOWNSAMPLINGS)
    return DOWNSAMPLINGS[name](d_in, d_out)


def check_images(operation: str, images: Tensor, channels: int, least: int) -> None:
    """Raise for what is no batch of images of at least ``least`` pixels along each axis.

    Raises:
        ValueError: wrong rank or channels, images that are too small.
    """
    if images.dim() != 4 or images.shape[1] != channels:
        got, wanted = f"images of shape {tuple(images.shape)}", f"(batch, {channels}, height, width)"
        remedy = "repeat grey images over the channels, or build the model with in_channels"
        raise argument_error(operation, got, wanted, remedy)
    if min(images.shape[2:]) < least:
        got = f"images of {images.shape[2]} by {images.shape[3]} pixels"
        raise argument_error(operation, got, f"at least {least} by {least}", "enlarge the images")
