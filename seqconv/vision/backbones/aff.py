"""AFFNet: filters in the spectrum that depend on the image, between inverted residuals.

A layer is ``y = x + u + irfft2(m(U) ⊙ U)``, ``u = norm(f(norm(x)))``, ``U = rfft2(u)``, with f an inverted residual (a
wide depthwise convolution between projections, batch norms) and m the complex MLP of
:class:`~seqconv.vision.mixers.frequency.fourier_operator.AFNO2d`. A block is layers, a norm and a projection, joined
with what the block was given: ``φ(norm(W [x, z]))``, or z alone.

Source: Huang et al. 2023 (arXiv 2307.14008), ``affnet/modules/aff_block.py``, ``affnet/modules/mobilenetv2.py`` and
``affnet/models/classification/affnet.py`` of microsoft/TokenMixers at 99dbe38c.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.mlp import PLAIN
from ...layers.residual import DropPath
from ..mixers.frequency.fourier_operator import AFNO2d
from .backbone import ImageBackbone, check_out_indices
from .block import drop_path_rates
from .cell_norm import CellBatchNorm, ImageNorm
from .normed_conv import NormedConv
from .stems import check_channels, check_images

DIVISOR = 8
"""Widths of inverted residuals are multiples of it; the complex MLPs have as many blocks."""
LARGEST_HEAD = 960
CONV_STAGES = 2
"""Stages of inverted residuals alone, the first at half the resolution."""


class MobileResidual(nn.Module):
    """``norm(W_2 φ(norm(conv(φ(norm(W_1 x))))))``, added to x where sizes agree (MobileNetV2).

    Args:
        d_in, d_out: widths.
        expand: inner channels per input channel, rounded to a multiple of 8; at 1 there is no first projection.
        stride: of the 3 by 3 depthwise convolution.
        activation: φ, see :mod:`~seqconv.layers.mlp`.
    """

    def __init__(self, d_in: int, d_out: int, *, expand: float, stride: int = 1, activation: str = "relu") -> None:
        super().__init__()
        inner = _divisible(round(d_in * expand))
        self.activation, self.adds = PLAIN[activation], stride == 1 and d_in == d_out
        self.up = None if expand == 1 else NormedConv(d_in, inner)
        self.conv = NormedConv(inner, inner, size=3, stride=stride, depthwise=True)
        self.down = NormedConv(inner, d_out)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch _ _ d_out"]:
        """Mix neighbouring cells and channels."""
        h = x if self.up is None else self.activation(self.up(x))
        y: Tensor = self.down(self.activation(self.conv(h)))
        return x + y if self.adds else y


def _divisible(width: int) -> int:
    """The nearest multiple of 8, less than a tenth below."""
    nearest = max(DIVISOR, (width + DIVISOR // 2) // DIVISOR * DIVISOR)
    return nearest + DIVISOR if nearest < 0.9 * width else nearest


NORMS: Mapping[str, type[ImageNorm] | type[CellBatchNorm]] = {"image": ImageNorm, "batch": CellBatchNorm}


class AFFLayer(nn.Module):
    """An inverted residual, then the adaptive filter; both between one pair of residual connections."""

    def __init__(
        self, d_model: int, *, mlp_ratio: float, activation: str, drop_path: float = 0.0, norm: str = "image"
    ) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.mlp_norm, self.mixer_norm = NORMS[norm](d_model), NORMS[norm](d_model)
        self.mlp = MobileResidual(d_model, d_model, expand=mlp_ratio, activation=activation)
        self.mixer = AFNO2d(d_model, num_blocks=DIVISOR, masks=True, activation=activation)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix neighbouring cells, then all."""
        y: Tensor = x + self.drop_path(self.mixer(self.mixer_norm(self.mlp(self.mlp_norm(x)))))
        return y


class AFFBlock(nn.Module):
    """Layers of adaptive filters, a norm and a projection, fused with the inputs.

    Args:
        d_model: width, a multiple of 8.
        depth: layers.
        mlp_ratio: inner width of the inverted residuals over the width.
        fuse: project inputs and outputs together; otherwise the outputs are all that is returned.
        activation: see :mod:`~seqconv.layers.mlp`.
        drop_path: for each layer the probability of leaving it out for an image; 0 if not given.
        norm: ``"image"``, over the cells and channels of each image, or ``"batch"``, of the layers and after them.

    Raises:
        ValueError: an unknown norm.
    """

    def __init__(
        self,
        d_model: int,
        *,
        depth: int,
        mlp_ratio: float = 2.0,
        fuse: bool = True,
        activation: str = "relu",
        drop_path: Sequence[float] | None = None,
        norm: str = "image",
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown_name("AFFBlock", "norm", norm, NORMS)
        self.activation = PLAIN[activation]
        rates = [0.0] * depth if drop_path is None else drop_path
        self.layers = nn.ModuleList(
            AFFLayer(d_model, mlp_ratio=mlp_ratio, activation=activation, drop_path=rate, norm=norm) for rate in rates
        )
        self.norm, self.proj = NORMS[norm](d_model), NormedConv(d_model, d_model)
        self.fusion = NormedConv(2 * d_model, d_model) if fuse else None

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix cells and channels."""
        z: Tensor = x
        for layer in self.layers:
            z = layer(z)
        z = self.proj(self.norm(z))
        if self.fusion is None:
            return z
        y: Tensor = self.activation(self.fusion(torch.cat([x, z], dim=-1)))
        return y


class AFFBackbone(ImageBackbone):
    """Stages of inverted residuals, then of adaptive filters (AFFNet).

    Args:
        dims: width of each stage; the first two are inverted residuals alone, at 1/2 and 1/4 of the resolution.
        depths: inverted residuals, and layers of adaptive filters, of each stage.
        expand: inner channels of inverted residuals per input channel.
        mlp_ratio: the same inside of the layers of adaptive filters.
        fuse: for each stage with adaptive filters, see :class:`AFFBlock`; all of them if not given.
        stem_dim: width of the first convolution.
        activation: see :mod:`~seqconv.layers.mlp`.
        norm: see :class:`AFFBlock`.
        head_factor: channels of the last projection per channel of the last stage, at most 960 channels.
        in_channels: channels of the images.
        drop_path: rate of the last layer of adaptive filters; it rises evenly from 0 at the first.
        out_indices: stages whose outputs are the feature maps; all if not given.
        gradient_checkpointing: see :class:`~seqconv.vision.backbones.backbone.ImageBackbone`.

    Raises:
        ValueError: fewer than two stages, other numbers of depths, widths that 8 does not divide.
    """

    head_init_std = None

    def __init__(
        self,
        *,
        dims: Sequence[int],
        depths: Sequence[int],
        expand: float = 4.0,
        mlp_ratio: float = 2.0,
        fuse: Sequence[bool] | None = None,
        stem_dim: int = 16,
        activation: str = "relu",
        norm: str = "image",
        head_factor: int = 4,
        in_channels: int = 3,
        drop_path: float = 0.0,
        out_indices: Sequence[int] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        filtered = len(dims) - CONV_STAGES
        fuse = [True] * filtered if fuse is None else fuse
        if filtered < 0 or len(depths) != len(dims) or len(fuse) != filtered or any(d % DIVISOR for d in dims):
            got = f"dims={tuple(dims)}, depths={tuple(depths)}, {len(fuse)} values of fuse"
            wanted = "two stages or more, a depth for each, widths that 8 divides"
            raise argument_error("AFFBackbone", got, wanted, "correct the sizes")
        check_channels("AFFBackbone", in_channels)
        self.in_channels, self.num_stages, self.gradient_checkpointing = in_channels, len(dims), gradient_checkpointing
        out_indices = range(len(dims)) if out_indices is None else out_indices
        self.out_indices = check_out_indices("AFFBackbone", out_indices, len(dims))
        self.dims = tuple(dims[stage] for stage in self.out_indices)
        self.strides = tuple(2 ** (stage + 1) for stage in self.out_indices)
        self.activation = PLAIN[activation]
        self.stem = NormedConv(in_channels, stem_dim, size=3, stride=2)
        rates = iter(drop_path_rates(drop_path, sum(depths[CONV_STAGES:])))
        self.stages = nn.ModuleList()
        for stage, ((d_in, d_out), depth) in enumerate(zip(pairwise([stem_dim, *dims]), depths, strict=True)):
            first = MobileResidual(d_in, d_out, expand=expand, stride=min(stage, 1) + 1, activation=activation)
            if stage < CONV_STAGES:
                rest = [MobileResidual(d_out, d_out, expand=expand, activation=activation) for _ in range(depth - 1)]
                self.stages.append(nn.ModuleList([first, *rest]))
                continue
            fused = fuse[stage - CONV_STAGES]
            drops = [next(rates) for _ in range(depth)]
            block = AFFBlock(
                d_out, depth=depth, mlp_ratio=mlp_ratio, fuse=fused, activation=activation, drop_path=drops, norm=norm
            )
            self.stages.append(nn.ModuleList([first, block]))
        self.d_cell, self.d_model = dims[-1], min(head_factor * dims[-1], LARGEST_HEAD)
        self.norm, self.projection = nn.Identity(), NormedConv(dims[-1], self.d_model)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps, and the last map."""
        check_images("AFFBackbone", images, self.in_channels, 1)
        x = self.activation(self.stem(images.movedim(1, -1)))
        features: list[Tensor] = []
        for stage, blocks in enumerate(self.stages):
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList is typed as a Module
                x = self._run(block, x)
            if stage in self.out_indices:
                features.append(x)
        return features, x

    def pool(self, last: Tensor) -> Float[Tensor, "batch d_model"]:
        """The mean over the cells of ``φ(norm(W x))``."""
        pooled: Tensor = self.activation(self.projection(last)).mean((1, 2))
        return pooled
