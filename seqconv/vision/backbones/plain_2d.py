"""Plain backbones of 2-D mixers: patches as an image, blocks of one width.

``x = stem(images)``, position embeddings added, then blocks ``x + f(norm(x))`` with f a 2-D mixer. The position
embeddings are learned for a grid of patches and resized, bicubic, to the grid of other images, or projected sines and
cosines. A classifier reads the mean over the cells, the first and the last cell, or a token that attends to all.

Source: ``plain_mamba.py`` of ChenhongyiYang/PlainMamba at 0975a1d0, ``vision_lstm2.py`` of NX-AI/vision-lstm at
381ba95c, ``xcit.py`` of facebookresearch/xcit at 82f5291f.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, check_name

from ...layers.initialisation import INITIALISATIONS, LINEAR_INIT_STD, reset_layers
from ...layers.norms import LayerNorm, create_norm
from ...parameters import set_optimizer_options
from ..mixers.ss2d import depthwise_conv2d
from ..packed_images import PackedImages, check_packed
from ..positions import FourierPositions, both_axes, resized_positions
from ..registry import create_mixer_2d
from .backbone import ImageBackbone, check_out_indices
from .block import Block2d, drop_path_rates
from .class_attention import ClassAttentionLayers
from .stems import PatchStem, ProjectionStem, check_images, create_stem

OPERATION = "PlainBackbone2d"
POOLINGS = ("mean", "ends", "mean_of_ends")
POSITIONS = ("learned", "fourier", "none")
FINAL_NORM_EPS = 1e-6
MixerKind = tuple[str, Mapping[str, Any], Mapping[str, Any]]
"""Name of a mixer, its options, options of the block on top of those of all blocks."""


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
        positions: ``"learned"``, ``"fourier"`` (see :class:`~seqconv.vision.positions.FourierPositions`) or ``"none"``.
        stem, stem_options: see :mod:`~seqconv.vision.backbones.stems`.
        in_channels: channels of the images.
        conv_layers: blocks followed by a 3 by 3 depthwise convolution, batch norm and GELU.
        pooling: ``"mean"`` over the cells, ``"ends"`` (the first and the last side by side) or ``"mean_of_ends"``.
        final_norm: name of the norm of the cells in front of the pooling, see :mod:`~seqconv.layers.norms`.
        final_norm_eps, final_norm_options: its ε and other options.
        class_attention: options of layers in which a learned token reads the cells (see
            :class:`~seqconv.vision.backbones.class_attention.ClassAttentionLayers`), whose normed result is pooled
            instead.
        pooled_norm, pooled_norm_eps: whether the pooled features are layer normed, and the norm's ε.
        mlp_ratio, layer_scale: as in :class:`~seqconv.vision.backbones.block.Block2d`.
        block_options: other options of the blocks.
        out_indices: blocks whose outputs are the feature maps, counted from 0; the last if not given.
        drop_path: rate of the last block; it rises evenly from 0 at the first. Or one rate for each block.
        drop_path_schedule: ``"constant"`` for the same rate in all blocks.
        initialisation: how the weights of the blocks' layers are drawn, see :mod:`~seqconv.layers.initialisation`;
            ``"mlp"`` for ``"linear"`` in the MLPs alone.
        head_init_std: standard deviation of the initial weights of a classifier's linear layer; 0 for zeros.
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
        first_mixers: Sequence[MixerKind] = (),
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        positions: str = "learned",
        stem: str = "project",
        stem_options: Mapping[str, Any] | None = None,
        in_channels: int = 3,
        conv_layers: Sequence[int] = (),
        pooling: str = "mean",
        final_norm: str = "layer",
        final_norm_eps: float = FINAL_NORM_EPS,
        final_norm_options: Mapping[str, Any] | None = None,
        class_attention: Mapping[str, Any] | None = None,
        pooled_norm: bool = False,
        pooled_norm_eps: float = FINAL_NORM_EPS,
        mlp_ratio: float = 0.0,
        layer_scale: float | None = None,
        block_options: Mapping[str, Any] | None = None,
        out_indices: Sequence[int] | None = None,
        drop_path: float | Sequence[float] = 0.0,
        drop_path_schedule: str = "linear",
        initialisation: str = "none",
        head_init_std: float = LINEAR_INIT_STD,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes, step = both_axes(image_size), patch_size if stride is None else stride
        _check_sizes(depth, sizes, patch_size, stride, stem)
        _check_lists(depth, first_mixers, conv_layers)
        _check_names(pooling, positions, initialisation)
        self.initialisation, self.head_init_std, self.num_stages = initialisation, head_init_std, depth
        self.out_indices = check_out_indices(OPERATION, (depth - 1,) if out_indices is None else out_indices, depth)
        self.in_channels, self.patch_size, self.stride, self.pooling = in_channels, patch_size, step, pooling
        self.d_cell = d_model
        self.d_model = 2 * d_model if pooling == "ends" and class_attention is None else d_model
        self.dims, self.strides = (d_model,) * len(self.out_indices), (step,) * len(self.out_indices)
        self.gradient_checkpointing = gradient_checkpointing
        overlap = {} if stride is None else {"stride": stride}
        self.stem = create_stem(stem, in_channels, d_model, patch_size, **overlap, **(stem_options or {}))
        grid = ((size - patch_size) // step + 1 for size in sizes)
        self.position_embedding = nn.Parameter(torch.empty(*grid, d_model)) if positions == "learned" else None
        if positions == "learned":
            set_optimizer_options(self, "position_embedding", weight_decay=0.0)
        self.fourier_positions = FourierPositions(d_model) if positions == "fourier" else None
        options = {"mlp_ratio": mlp_ratio, "layer_scale": layer_scale, **(block_options or {})}
        kinds = _kinds(depth, mixer, mixer_options or {}, layer_options, first_mixers)
        self.blocks = _blocks(d_model, kinds, _drop_path_rates(drop_path, depth, drop_path_schedule), options)
        self.convs = nn.ModuleDict({str(index): DepthwiseLayer(d_model) for index in conv_layers})
        given = {"eps": final_norm_eps, **(final_norm_options or {})}
        self.norm = nn.Identity() if final_norm == "none" else create_norm(final_norm, d_model, **given)
        reading = None if class_attention is None else ClassAttentionLayers(d_model, **class_attention)
        self.class_attention = reading
        self.pooled_norm = LayerNorm(self.d_model, eps=pooled_norm_eps) if pooled_norm else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of the blocks by ``initialisation``; small positions, where they are learned."""
        for block in [*self.blocks, *([] if self.class_attention is None else [self.class_attention])]:
            mlps = [block.mlp] if isinstance(block, Block2d) and block.mlp is not None else []
            for part in mlps if self.initialisation == "mlp" else [block]:
                reset_layers(part, "linear" if self.initialisation == "mlp" else self.initialisation)
        if self.position_embedding is not None:
            nn.init.trunc_normal_(self.position_embedding, std=LINEAR_INIT_STD)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps, and the last map."""
        check_images(OPERATION, images, self.in_channels, self.patch_size)
        x = self.stem(images)
        features: list[Tensor] = []
        x = self._placed(x)
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
        check_packed(OPERATION, images, self.in_channels, patch, (self.stride, self.stride))
        if self.convs or not isinstance(self.stem, PatchStem | ProjectionStem):
            got, wanted = "packed images for convolutions of several patches", "a stem of each patch by itself"
            raise argument_error(OPERATION, got, wanted, "pass images of one size at a time")
        cells = self.stem(images.patches).flatten(0, 2).split(images.lengths)
        placed = [self._placed(c.unflatten(0, size)[None]) for c, size in zip(cells, images.sizes, strict=True)]
        x = torch.cat([part.flatten(1, 2) for part in placed], dim=1)[None]
        features = []
        for index, block in enumerate(self.blocks):
            x = self._run(block, x, sizes=images.sizes)
            if index in self.out_indices:
                features.append(_unpacked(x, images))
        return features, _unpacked(x, images)

    def pool(self, last: Tensor) -> Float[Tensor, "batch d_model"]:
        """The mean over the cells, the first and the last, or what a token reads of all, normed before or after."""
        if self.class_attention is not None:
            read: Tensor = self.pooled_norm(self.norm(self._run(self.class_attention, last)))
            return read
        cells = self.norm(last).flatten(1, 2)
        if self.pooling == "mean":
            pooled = cells.mean(1)
        elif self.pooling == "ends":
            pooled = torch.cat([cells[:, 0], cells[:, -1]], dim=-1)
        else:
            pooled = (cells[:, 0] + cells[:, -1]) / 2
        y: Tensor = self.pooled_norm(pooled)
        return y

    def _placed(
        self, cells: Float[Tensor, "batch rows columns d_model"]
    ) -> Float[Tensor, "batch rows columns d_model"]:
        """The cells with their positions added."""
        if self.fourier_positions is not None:
            cells = cells + self.fourier_positions(cells)
        if self.position_embedding is not None:
            cells = cells + resized_positions(self.position_embedding, *cells.shape[1:3])
        return cells


def _check_sizes(depth: int, sizes: tuple[int, int], patch_size: int, stride: int | None, stem: str) -> None:
    """Raise for sizes below 1, images smaller than a patch, a stride of a stem that has none."""
    if min(depth, patch_size, 1 if stride is None else stride) < 1 or min(sizes) < patch_size:
        got = f"depth={depth}, image_size={sizes}, patch_size={patch_size}, stride={stride}"
        wanted = "sizes of at least 1, an image of at least a patch"
        raise argument_error(OPERATION, got, wanted, "correct the sizes")
    if stride is not None and stem != "project":
        got, remedy = f"stride={stride}, stem={stem!r}", "leave the stride out"
        raise argument_error(OPERATION, got, "stem='project'", remedy)


def _check_lists(depth: int, first_mixers: Sequence[MixerKind], conv_layers: Sequence[int]) -> None:
    """Raise for options of blocks that are not there."""
    if len(first_mixers) > depth:
        got = f"{len(first_mixers)} first_mixers"
        raise argument_error(OPERATION, got, f"at most one for each of {depth} blocks", "leave the others out")
    if not set(conv_layers) <= set(range(depth)):
        wanted = f"indices from 0 to {depth - 1}"
        raise argument_error(OPERATION, f"conv_layers={tuple(conv_layers)}", wanted, "correct the indices")


def _check_names(pooling: str, positions: str, initialisation: str) -> None:
    """Raise for unknown names."""
    check_name(OPERATION, "pooling", pooling, POOLINGS)
    check_name(OPERATION, "positions", positions, POSITIONS)
    check_name(OPERATION, "initialisation", initialisation, (*INITIALISATIONS, "mlp"))


def _drop_path_rates(drop_path: float | Sequence[float], depth: int, schedule: str) -> list[float]:
    """The rate of each block."""
    if not isinstance(drop_path, Sequence):
        return drop_path_rates(drop_path, depth, schedule)
    if len(drop_path) != depth:
        got = f"{len(drop_path)} rates of drop_path"
        raise argument_error(OPERATION, got, f"one for each of {depth} blocks", "pass one number")
    return list(drop_path)


def _kinds(
    depth: int,
    mixer: str,
    mixer_options: Mapping[str, Any],
    layer_options: Sequence[Mapping[str, Any]],
    first_mixers: Sequence[MixerKind],
) -> list[MixerKind]:
    """The mixer of each block."""
    own = [layer_options[index % len(layer_options)] if layer_options else {} for index in range(depth)]
    same: list[MixerKind] = [(mixer, {**mixer_options, **options}, {}) for options in own]
    return [*first_mixers, *same[len(first_mixers) :]]


def _blocks(
    d_model: int, kinds: Sequence[MixerKind], rates: Sequence[float], options: Mapping[str, Any]
) -> nn.ModuleList:
    """A block around each mixer."""
    blocks = nn.ModuleList()
    for (name, mixer_options, own), rate in zip(kinds, rates, strict=True):
        mixer = create_mixer_2d(name, d_model, **mixer_options)
        blocks.append(Block2d(mixer, drop_path=rate, **{**options, **own}))
    return blocks


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
