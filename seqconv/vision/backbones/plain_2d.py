"""Plain backbones of 2-D mixers: patches as an image, blocks of one width.

``x = stem(images)``, position embeddings added, then blocks ``x + f(norm(x))`` with f a 2-D mixer. The position
embeddings are learned for a grid of patches and resized, bicubic, to the grid of other images. A classifier reads the
mean over the cells, or the first and the last cell.

Source: ``plain_mamba.py`` of ChenhongyiYang/PlainMamba at 0975a1d0, ``vision_lstm2.py`` of NX-AI/vision-lstm at
381ba95c.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.norms import LayerNorm, create_norm
from ..mixers.ss2d import depthwise_conv2d
from ..packed_images import PackedImages, check_packed
from ..positions import resized_positions
from ..registry import create_mixer_2d
from .backbone import LINEAR_INIT_STD, ImageBackbone, check_out_indices
from .block import Block2d, drop_path_rates
from .stems import PatchStem, ProjectionStem, check_images, create_stem

POOLINGS = ("mean", "ends", "mean_of_ends")
FINAL_NORM_EPS = 1e-6


class PlainBackbone2d(ImageBackbone):
    """A stack of 2-D mixers over the patches of an image.

    Args:
        mixer: name of the 2-D mixer, one of :func:`~seqconv.vision.registry.list_mixers_2d`.
        d_model: width.
        depth: blocks.
        mixer_options: options of the mixer in all blocks.
        layer_options: options of single blocks on top of these, repeated over the depth (alternating directions).
        first_mixers: mixers of the first blocks, which differ (SpectFormer): name, options of the mixer, options of
            the block on top of ``block_options``.
        image_size: pixels along each axis that the position embeddings are learned for (one number, or height and
            width); other sizes are resized to.
        patch_size: pixels of a patch along each axis.
        stride: pixels from a patch to the next; ``patch_size`` if not given, for the stem ``"project"`` alone if it is.
        stem, stem_options: see :mod:`~seqconv.vision.backbones.stems`.
        in_channels: channels of the images.
        conv_layers: blocks followed by a 3 by 3 depthwise convolution, batch norm and GELU.
        pooling: ``"mean"`` over the cells, ``"ends"`` (the first and the last side by side) or ``"mean_of_ends"``.
        norm: name of the norm of the cells in front of the pooling, see :mod:`~seqconv.layers.norms`.
        norm_eps, norm_options: its ε and other options.
        pooled_norm, pooled_norm_eps: whether the pooled features are layer normed, and the norm's ε.
        mlp_ratio, layer_scale: as in :class:`~seqconv.vision.backbones.block.Block2d`.
        block_options: other options of the blocks.
        out_indices: blocks whose outputs are the feature maps, counted from 0; the last if not given.
        drop_path: rate of the last block; it rises evenly from 0 at the first.
        gradient_checkpointing: see :class:`~seqconv.vision.backbones.backbone.ImageBackbone`.

    Raises:
        ValueError: unknown names or options (the nearest are named), sizes below 1, indices outside of the depth.
    """

    def __init__(
        self,
        mixer: str,
        *,
        d_model: int,
        depth: int,
        mixer_options: Mapping[str, Any] | None = None,
        layer_options: Sequence[Mapping[str, Any]] = (),
        first_mixers: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = (),
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        stem: str = "project",
        stem_options: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        conv_layers: Sequence[int] = (),
        pooling: str = "mean",
        norm: str = "layer",
        norm_eps: float = FINAL_NORM_EPS,
        norm_options: Mapping[str, Any] | None = None,
        pooled_norm: bool = False,
        pooled_norm_eps: float = FINAL_NORM_EPS,
        mlp_ratio: float = 0.0,
        layer_scale: float | None = None,
        block_options: Mapping[str, Any] | None = None,
        out_indices: Sequence[int] | None = None,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        step = patch_size if stride is None else stride
        if min(depth, patch_size, step) < 1 or len(sizes) != 2 or min(sizes) < patch_size:
            got = f"depth={depth}, image_size={image_size}, patch_size={patch_size}, stride={stride}"
            wanted = "sizes of at least 1, an image of at least a patch"
            raise argument_error("PlainBackbone2d", got, wanted, "correct the sizes")
        if stride is not None and stem != "project":
            remedy = "leave the stride out"
            raise argument_error("PlainBackbone2d", f"stride={stride}, stem={stem!r}", "stem='project'", remedy)
        if pooling not in POOLINGS:
            raise unknown_name("PlainBackbone2d", "pooling", pooling, POOLINGS)
        out_indices = (depth - 1,) if out_indices is None else out_indices
        self.out_indices = check_out_indices("PlainBackbone2d", out_indices, depth)
        self.in_channels, self.patch_size, self.pooling, self.num_stages = in_channels, patch_size, pooling, depth
        self.stride, self.d_cell = step, d_model
        self.d_model = 2 * d_model if pooling == "ends" else d_model
        self.dims, self.strides = (d_model,) * len(self.out_indices), (step,) * len(self.out_indices)
        self.gradient_checkpointing = gradient_checkpointing
        overlap = {} if stride is None else {"stride": stride}
        self.stem = create_stem(stem, in_channels, d_model, patch_size, **overlap, **(stem_options or {}))
        grid = ((size - patch_size) // step + 1 for size in sizes)
        self.position_embedding = nn.Parameter(torch.empty(*grid, d_model))
        self.blocks = nn.ModuleList()
        for index, rate in enumerate(drop_path_rates(drop_path, depth)):
            own = layer_options[index % len(layer_options)] if layer_options else {}
            kind = (mixer, {**(mixer_options or {}), **own}, dict[str, Any]())
            name, made, block = first_mixers[index] if index < len(first_mixers) else kind
            options = {"mlp_ratio": mlp_ratio, "layer_scale": layer_scale, **(block_options or {}), **block}
            self.blocks.append(Block2d(create_mixer_2d(name, d_model, **made), drop_path=rate, **options))
        self.convs = nn.ModuleDict({str(index): DepthwiseLayer(d_model) for index in conv_layers})
        given = {"eps": norm_eps, **(norm_options or {})}
        self.norm = nn.Identity() if norm == "none" else create_norm(norm, d_model, **given)
        self.pooled_norm = LayerNorm(self.d_model, eps=pooled_norm_eps) if pooled_norm else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small positions."""
        nn.init.trunc_normal_(self.position_embedding, std=LINEAR_INIT_STD)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps, and the last map."""
        check_images("PlainBackbone2d", images, self.in_channels, self.patch_size)
        x = self.stem(images)
        features: list[Tensor] = []
        x = x + resized_positions(self.position_embedding, *x.shape[1:3])
        for index, block in enumerate(self.blocks):
            x = self._run(block, x)
            if str(index) in self.convs:
                x = self.convs[str(index)](x)
            if index in self.out_indices:
                features.append(x)
        return features, x

    def packed_features(self, images: PackedImages) -> tuple[list[list[Tensor]], list[Tensor]]:
        """As :meth:`features`, of packed images."""
        patch = (self.patch_size, self.patch_size)
        check_packed("PlainBackbone2d", images, self.in_channels, patch, (self.stride, self.stride))
        if self.convs or not isinstance(self.stem, PatchStem | ProjectionStem):
            got, wanted = "packed images for convolutions of several patches", "a stem of each patch by itself"
            raise argument_error("PlainBackbone2d", got, wanted, "pass images of one size at a time")
        positions = [resized_positions(self.position_embedding, *size).flatten(0, 1) for size in images.sizes]
        x = (self.stem(images.patches).flatten(0, 2) + torch.cat(positions))[None, None]
        features = []
        for index, block in enumerate(self.blocks):
            x = self._run(block, x, sizes=images.sizes)
            if index in self.out_indices:
                features.append(_unpacked(x, images))
        return features, _unpacked(x, images)

    def pool(self, last: Tensor) -> Float[Tensor, "batch d_model"]:
        """The mean over the cells, or the first and the last, normed before or after."""
        cells = self.norm(last).flatten(1, 2)
        if self.pooling == "mean":
            pooled = cells.mean(1)
        elif self.pooling == "ends":
            pooled = torch.cat([cells[:, 0], cells[:, -1]], dim=-1)
        else:
            pooled = (cells[:, 0] + cells[:, -1]) / 2
        y: Tensor = self.pooled_norm(pooled)
        return y


def _unpacked(x: Tensor, images: PackedImages) -> list[Float[Tensor, "1 rows columns d_model"]]:
    parts = zip(x.squeeze(0).split(images.lengths, dim=1), images.sizes, strict=True)
    return [part.unflatten(1, size) for part, size in parts]


class DepthwiseLayer(nn.Module):
    """``gelu(norm(conv(x)))`` with a 3 by 3 depthwise convolution and a batch norm, channels last."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.conv = depthwise_conv2d(d_model, 3, bias=False)
        self.norm = nn.BatchNorm2d(d_model)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Every channel by itself."""
        return F.gelu(self.norm(self.conv(x.movedim(-1, 1)))).movedim(1, -1)
