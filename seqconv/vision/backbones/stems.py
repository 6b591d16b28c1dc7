"""From pixels to cells: patch embeddings.

``(batch, channels, height, width)`` pixels to ``(batch, rows, columns, d_model)`` cells:

==============  ==========================================================================
``patch``       one convolution of patches next to each other, a norm (Swin, VMamba v1)
``project``     the same without the norm (ViT, ViL)
``conv``        two convolutions with layer norms, GELU between (VMamba v2)
``conv_silu``   the same with SiLU between (ViG)
``batch_norm``  four 3 by 3 convolutions of strides 2, 1, 2, 1 with batch norms, GELU between (RMT)
``halving``     3 by 3 convolutions of stride 2 with batch norms, GELU between (XCiT)
``mobile``      the same with ReLU between (MobileMamba)
``conv7``       a 7 by 7 convolution of stride 2 and 3 by 3 ones with batch norms and ReLU, then one of patches next to
                each other (PlainMamba)
``conv7_norm``  the same with three convolutions, then one of stride 2 and a layer norm (SpectFormer)
``overlap``     a 7 by 7 convolution of stride 4, a norm or none (ParCNetV2, SPANet, PVTv2)
==============  ==========================================================================

Source: ``vmamba.py`` of MzeroMiko/VMamba at 2ed52ead.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.mlp import PLAIN
from ...layers.norms import LayerNorm
from .cell_norm import create_image_norm
from .normed_conv import HalvingStem


class PatchStem(nn.Module):
    """One convolution of ``patch_size`` and stride ``patch_size``, and a norm.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis; pixels that fill no cell are left out.
        norm, eps, norm_options: the norm, see :mod:`~seqconv.vision.backbones.cell_norm`, or ``"none"``, its ε, others.
    """

    def __init__(
        self,
        in_channels: int,
        d_model: int,
        patch_size: int,
        *,
        norm: str = "layer",
        eps: float = 1e-5,
        norm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, d_model, patch_size, stride=patch_size)
        self.norm = _create_norm(norm, d_model, eps, norm_options)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        cells: Tensor = self.norm(self.proj(images).movedim(1, -1))
        return cells


class ConvStem(nn.Module):
    """Two convolutions with layer norms, half the width and an activation between.

    The first has stride ``patch_size / 2`` and one pixel more on a side, the second stride 2 and 3 by 3 pixels.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis, even.
        activation: ``"gelu"`` or ``"silu"``.
        norm: ``"layer"`` or ``"none"``.
        bias: whether the convolutions have biases.
        out_activation: whether the activation follows the second norm too.

    Raises:
        ValueError: an odd patch size.
    """

    def __init__(
        self,
        in_channels: int,
        d_model: int,
        patch_size: int,
        *,
        activation: str = "gelu",
        norm: str = "layer",
        bias: bool = True,
        out_activation: bool = False,
    ) -> None:
        super().__init__()
        if patch_size % 2 or patch_size < 4:
            raise argument_error("ConvStem", f"patch_size={patch_size}", "even, at least 4", "take stem='patch'")
        stride = patch_size // 2
        self.activation, self.out_activation = PLAIN[activation], out_activation
        self.conv1 = nn.Conv2d(in_channels, d_model // 2, stride + 1, stride=stride, padding=1, bias=bias)
        self.norm1 = _create_norm(norm, d_model // 2)
        self.conv2 = nn.Conv2d(d_model // 2, d_model, 3, stride=2, padding=1, bias=bias)
        self.norm2 = _create_norm(norm, d_model)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        hidden = self.activation(self.norm1(self.conv1(images).movedim(1, -1)))
        cells: Tensor = self.norm2(self.conv2(hidden.movedim(-1, 1)).movedim(1, -1))
        return self.activation(cells) if self.out_activation else cells


class ProjectionStem(nn.Module):
    """One convolution of patches.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis; pixels that fill no cell are left out.
        stride: pixels from a cell to the next; ``patch_size`` if not given.
        xavier: draw the weights as those of a linear layer from all pixels of a patch (Glorot), without biases.
    """

    def __init__(
        self, in_channels: int, d_model: int, patch_size: int, *, stride: int | None = None, xavier: bool = False
    ) -> None:
        super().__init__()
        self.proj, self.xavier = nn.Conv2d(in_channels, d_model, patch_size, stride=stride or patch_size), xavier
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights again if they are Glorot's."""
        if self.xavier:
            nn.init.xavier_uniform_(self.proj.weight.view(len(self.proj.weight), -1))
            assert self.proj.bias is not None
            nn.init.zeros_(self.proj.bias)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        cells: Tensor = self.proj(images).movedim(1, -1)
        return cells


class ConvolutionalPatchStem(nn.Module):
    """Convolutions at half the resolution in front of the convolution of patches; images are padded to whole patches.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis, even.
        num_convs: 3 by 3 convolutions.
        channels: of the convolutions.

    Raises:
        ValueError: an odd patch size.
    """

    def __init__(
        self, in_channels: int, d_model: int, patch_size: int, *, num_convs: int = 1, channels: int = 64
    ) -> None:
        super().__init__()
        if patch_size % 2:
            got = f"patch_size={patch_size}"
            raise argument_error("ConvolutionalPatchStem", got, "an even number", "take stem='project'")
        self.layers, self.cell = _convolutions(in_channels, channels, num_convs), patch_size // 2
        self.proj = nn.Conv2d(channels, d_model, self.cell, stride=self.cell)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        x = self.layers(images)
        x = F.pad(x, (0, -x.shape[3] % self.cell, 0, -x.shape[2] % self.cell))
        cells: Tensor = self.proj(x).movedim(1, -1)
        return cells


class ConvolutionalNormStem(nn.Module):
    """Three convolutions at half the resolution, one of stride 2 in front of a layer norm.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis: 4.
        channels: of the convolutions.

    Raises:
        ValueError: another patch size.
    """

    def __init__(self, in_channels: int, d_model: int, patch_size: int, *, channels: int = 64) -> None:
        super().__init__()
        if patch_size != 4:
            raise argument_error("ConvolutionalNormStem", f"patch_size={patch_size}", "4", "take stem='conv7'")
        self.layers = _convolutions(in_channels, channels, 2)
        self.proj = nn.Conv2d(channels, d_model, 3, stride=2, padding=1)
        self.norm = LayerNorm(d_model)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        cells: Tensor = self.norm(self.proj(self.layers(images)).movedim(1, -1))
        return cells


def _convolutions(in_channels: int, channels: int, count: int) -> nn.Sequential:
    """A 7 by 7 convolution of stride 2 and ``count`` of 3 by 3, each with a batch norm and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)]
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    for _ in range(count):
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class BatchNormStem(nn.Module):
    """Four 3 by 3 convolutions of strides 2, 1, 2, 1 with batch norms, GELU between; the first two have half the width.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels of a cell along each axis: 4.

    Raises:
        ValueError: another patch size.
    """

    def __init__(self, in_channels: int, d_model: int, patch_size: int) -> None:
        super().__init__()
        if patch_size != 4:
            raise argument_error("BatchNormStem", f"patch_size={patch_size}", "4", "take stem='patch'")
        half, layers = d_model // 2, list[nn.Module]()
        for d_in, d_out, stride in ((in_channels, half, 2), (half, half, 1), (half, d_model, 2), (d_model, d_model, 1)):
            layers += [nn.Conv2d(d_in, d_out, 3, stride=stride, padding=1), nn.BatchNorm2d(d_out), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        cells: Tensor = self.layers(images).movedim(1, -1)
        return cells


class OverlapStem(nn.Module):
    """A 7 by 7 convolution of stride 4, and a norm or none.

    Args:
        in_channels: of the images.
        d_model: width of the cells.
        patch_size: pixels from a cell to the next: 4.
        padding: zeros around the image.
        norm: its name, see :mod:`~seqconv.vision.backbones.cell_norm`; ``"none"`` for none.
        eps, norm_options: its ε and other options.

    Raises:
        ValueError: another patch size, an unknown norm.
    """

    def __init__(
        self,
        in_channels: int,
        d_model: int,
        patch_size: int,
        *,
        padding: int = 2,
        norm: str = "none",
        eps: float = 1e-5,
        norm_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if patch_size != 4:
            raise argument_error("OverlapStem", f"patch_size={patch_size}", "4", "take stem='patch'")
        self.proj = nn.Conv2d(in_channels, d_model, 7, stride=4, padding=padding)
        self.norm = _create_norm(norm, d_model, eps, norm_options)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch rows columns d"]:
        """Pixels to cells."""
        cells: Tensor = self.norm(self.proj(images).movedim(1, -1))
        return cells


STEMS: Mapping[str, Callable[..., nn.Module]] = {
    "patch": PatchStem,
    "conv": ConvStem,
    "conv_silu": partial(ConvStem, activation="silu"),
    "project": ProjectionStem,
    "batch_norm": BatchNormStem,
    "halving": partial(HalvingStem, activation="gelu"),
    "mobile": partial(HalvingStem, activation="relu"),
    "conv7": ConvolutionalPatchStem,
    "conv7_norm": ConvolutionalNormStem,
    "overlap": OverlapStem,
}


def _create_norm(norm: str, d_model: int, eps: float = 1e-5, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A norm by name, ``"none"`` for none."""
    return nn.Identity() if norm == "none" else create_image_norm(norm, d_model, eps=eps, **(options or {}))


def create_stem(name: str, in_channels: int, d_model: int, patch_size: int, **options: Any) -> nn.Module:
    """Build a patch embedding by name, with ``options`` of its own.

    Raises:
        ValueError: an unknown name (the nearest are named), a patch size that it does not have, no channels.
    """
    if name not in STEMS:
        raise unknown_name("create_stem", "stem", name, STEMS)
    check_channels("create_stem", in_channels)
    return STEMS[name](in_channels, d_model, patch_size, **options)


def check_channels(operation: str, in_channels: int) -> None:
    """Raise for images without channels."""
    if in_channels < 1:
        remedy = "3 for colours, 1 for grey images"
        raise argument_error(operation, f"in_channels={in_channels}", "at least 1", remedy)


def check_images(operation: str, images: Tensor, channels: int, least: int | tuple[int, int]) -> None:
    """Raise for what is no batch of images of at least ``least`` pixels along each axis, or along height and width.

    Raises:
        ValueError: wrong rank, channels or dtype, images that are too small.
    """
    if not images.is_floating_point():
        wanted, remedy = "floating point pixels", "scale bytes: images.float() / 255, normalised as in training"
        raise argument_error(operation, f"images of dtype {images.dtype}", wanted, remedy)
    if images.dim() != 4 or images.shape[1] != channels:
        got, wanted = f"images of shape {tuple(images.shape)}", f"(batch, {channels}, height, width)"
        remedy = "repeat grey images over the channels, or build the model with in_channels"
        if images.dim() == 3 and images.shape[0] == channels:
            remedy = "add the axis of the batch: images[None]"
        raise argument_error(operation, got, wanted, remedy)
    height, width = (least, least) if isinstance(least, int) else least
    if images.shape[2] < height or images.shape[3] < width:
        got = f"images of {images.shape[2]} by {images.shape[3]} pixels"
        raise argument_error(operation, got, f"at least {height} by {width}", "enlarge the images")
