"""Hierarchical backbones: stages of blocks, each on a quarter of the cells of the stage before and wider.

``stem → blocks → downsampling → blocks → …``; the features of a stage are what its last block returns. A classifier
reads the mean over the cells of the normed last map, or what attends to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, check_name

from ...layers.initialisation import INITIALISATIONS, LINEAR_INIT_STD, reset_layers
from ...layers.norms import LayerNorm
from ..mixer_2d import Mixer2d
from ..mixers.mobile_mamba import MobileBlock
from ..mixers.ss2d import depthwise_conv2d
from ..positions import PositionTables, both_axes
from ..registry import create_mixer_2d
from .backbone import ImageBackbone, check_out_indices
from .block import Block2d, drop_path_rates
from .cell_norm import create_image_norm
from .class_attention import ClassAttention
from .downsamplings import create_downsampling, downsampling_strides
from .inverted import InvertedResidual
from .stems import check_images, create_stem

OPERATION = "HierarchicalBackbone"
BLOCKS = ("mixer", "mobile", "inverted_residual")
FINAL_NORMS = ("layer", "image", "prep_batch", "none", "pooled_layer", "batch")


class HierarchicalBackbone(ImageBackbone):
    """Stages of 2-D mixers.

    Args:
        mixer: name of the 2-D mixer, one of :func:`~seqconv.vision.registry.list_mixers_2d`, or one for each stage;
            several names for a stage are repeated over its blocks.
        dims: width of each stage.
        depths: blocks of each stage.
        mixer_options: options of the mixer in all stages.
        stage_options: options of the mixer of each stage on top of these; or several, repeated over its blocks.
        in_channels: channels of the images.
        patch_size: pixels of a cell of the first stage along each axis.
        stem, stem_options: see :mod:`~seqconv.vision.backbones.stems`.
        downsampling, downsampling_options: see :mod:`~seqconv.vision.backbones.downsamplings`; one name, or one in
            front of each stage but the first.
        mlp_ratio, layer_scale, stream_scale: as in :class:`~.block.Block2d`; one value, or one for each stage.
        block_options: other options of the blocks.
        stage_blocks: for each stage ``"mixer"``, ``"mobile"`` (MobileMamba's block around the mixer) or
            ``"inverted_residual"`` (the convolutions of :mod:`~seqconv.vision.backbones.inverted`).
        position_sizes: rows and columns that the position embeddings of the first stages are learned for (one number
            for squares); they are added to the cells in front of the blocks.
        position_convs: add a 3 by 3 depthwise convolution of the cells to them after the first block of each stage,
            which encodes positions (PEG of CPVT, Chu et al. 2021, arXiv 2102.10882).
        final_norm: ``"layer"``, ``"image"`` or ``"prep_batch"``, of the last map, ``"pooled_layer"`` or ``"batch"``,
            of the pooled features, or ``"none"``.
        final_norm_eps, final_norm_options: its ε and other options.
        class_attention: options of a block of attention of one token, the mean, to all cells (see
            :mod:`~seqconv.vision.backbones.class_attention`), whose normed result is pooled; the mean without it.
        projection: width of the pooled features, which are then the mean of ``silu(norm(W x))`` over the cells of the
            last map, with a batch norm (RMT); without it they are the mean of the cells, layer normed.
        drop_path: rate of the last block; it rises evenly from 0 at the first.
        initialisation: how the weights of layers are drawn, see :mod:`~seqconv.layers.initialisation`.
        head_init_std: standard deviation of the initial weights of a classifier's linear layer; 0 for zeros.
        out_indices: stages whose outputs are the feature maps, counted from 0; all if not given.
        gradient_checkpointing: see :class:`~seqconv.vision.backbones.backbone.ImageBackbone`.

    Raises:
        ValueError: no stages, a list of another length than ``dims``, unknown names or options (the nearest are named).
    """

    def __init__(
        self,
        mixer: str | Sequence[str | Sequence[str]],
        *,
        dims: Sequence[int],
        depths: Sequence[int],
        mixer_options: Mapping[str, Any] | None = None,
        stage_options: Sequence[Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None,
        in_channels: int = 3,
        patch_size: int = 4,
        stem: str = "patch",
        stem_options: Mapping[str, Any] | None = None,
        downsampling: str | Sequence[str] = "merge",
        downsampling_options: Mapping[str, Any] | None = None,
        mlp_ratio: float | Sequence[float] = 4.0,
        layer_scale: float | Sequence[float | None] | None = None,
        stream_scale: float | Sequence[float | None] | None = None,
        block_options: Mapping[str, Any] | None = None,
        stage_blocks: Sequence[str] | None = None,
        position_sizes: Sequence[int | Sequence[int]] | None = None,
        position_convs: bool = False,
        final_norm: str = "layer",
        final_norm_eps: float = 1e-5,
        final_norm_options: Mapping[str, Any] | None = None,
        class_attention: Mapping[str, Any] | None = None,
        projection: int | None = None,
        drop_path: float = 0.0,
        initialisation: str = "linear",
        head_init_std: float = LINEAR_INIT_STD,
        out_indices: Sequence[int] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        stages = len(dims)
        kinds = "mixer" if stage_blocks is None else stage_blocks
        given: dict[str, Any] = {"mixer": mixer, "stage_blocks": kinds, "stage_options": stage_options or {}}
        given |= {"mlp_ratio": mlp_ratio, "layer_scale": layer_scale, "stream_scale": stream_scale}
        per_stage = {"depths": list(depths), **{name: _each(value, stages) for name, value in given.items()}}
        downsamplings, grids = _each(downsampling, stages - 1), list(position_sizes or ())
        _check_counts(dims, per_stage, downsamplings, grids)
        _check_names(initialisation, final_norm, per_stage["stage_blocks"])
        self.initialisation, self.head_init_std, self.num_stages = initialisation, head_init_std, stages
        self.in_channels, self.patch_size, self.gradient_checkpointing = in_channels, patch_size, gradient_checkpointing
        self.out_indices = check_out_indices(OPERATION, range(stages) if out_indices is None else out_indices, stages)
        self.dims = tuple(dims[stage] for stage in self.out_indices)
        self.stem = create_stem(stem, in_channels, dims[0], patch_size, **(stem_options or {}))
        self.downsamplings = _downsamplings(downsamplings, dims, downsampling_options or {})
        strides, whole = downsampling_strides(self.downsamplings)
        self.strides = tuple(patch_size * strides[stage] for stage in self.out_indices)
        self.least = patch_size * strides[-1] if whole else patch_size
        self.stages = _stages(dims, per_stage, mixer_options or {}, block_options or {}, drop_path)
        self.shared = _shared_modules(self.stages)
        self.positions = _position_tables(grids, dims)
        self.position_convs = nn.ModuleList(depthwise_conv2d(dim, 3) for dim in dims if position_convs)
        norm = "none" if projection else final_norm
        self.norm, self.pooled_norm = _final_norms(norm, dims[-1], final_norm_eps, final_norm_options or {})
        self.class_attention = None if class_attention is None else ClassAttention(dims[-1], **class_attention)
        self.projection = None if projection is None else PooledProjection(dims[-1], projection)
        self.d_cell, self.d_model = dims[-1], dims[-1] if projection is None else projection
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of all layers, of mixers too, by ``initialisation``; small positions."""
        reset_layers(self, self.initialisation)
        for table in self.positions:
            nn.init.trunc_normal_(table, std=LINEAR_INIT_STD)

    def features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps, and the last map."""
        check_images(OPERATION, images, self.in_channels, self.least)
        x = self.stem(images)
        features: list[Tensor] = []
        for stage, blocks in enumerate(self.stages):
            x = self.downsamplings[stage - 1](x) if stage else x
            if stage < len(self.positions):
                x = self.positions(x, stage)
            shared = {"shared": self.shared[str(stage)]()} if str(stage) in self.shared else {}
            for index, block in enumerate(blocks):  # type: ignore[arg-type, var-annotated]  # a ModuleList is typed as a Module
                x = self._run(block, x, **shared)
                if index == 0 and self.position_convs:
                    x = x + self.position_convs[stage](x.movedim(-1, 1)).movedim(1, -1)
            if stage in self.out_indices:
                features.append(x)
        return features, x

    def pool(self, last: Tensor) -> Float[Tensor, "batch d_model"]:
        """The mean over the cells of the normed map, or what attends to them."""
        if self.class_attention is not None:
            attended: Tensor = self.norm(self.class_attention(last))
            return attended
        normed: Tensor = self.norm(last) if self.projection is None else self.projection(last)
        pooled: Tensor = self.pooled_norm(normed.mean((1, 2)))
        return pooled


class PooledProjection(nn.Module):
    """``silu(norm(W x))`` of every cell, with a batch norm."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Linear(d_in, d_out), nn.BatchNorm2d(d_out)

    def forward(self, x: Float[Tensor, "batch rows columns d_in"]) -> Float[Tensor, "batch rows columns d_out"]:
        """Every cell by itself."""
        return F.silu(self.norm(self.proj(x).movedim(-1, 1)).movedim(1, -1))


def _check_counts(
    dims: Sequence[int],
    per_stage: Mapping[str, Sequence[Any]],
    downsamplings: Sequence[str],
    grids: Sequence[int | Sequence[int]],
) -> None:
    """Raise unless there is one value of every option for each stage."""
    stages = len(dims)
    differing = [name for name, values in per_stage.items() if len(values) != stages]
    if differing or not stages or len(downsamplings) != stages - 1 or min(per_stage["depths"]) < 1:
        got = f"dims={tuple(dims)}, depths={tuple(per_stage['depths'])}, "
        got += ", ".join(f"{len(values)} {name}" for name, values in per_stage.items() if name != "depths")
        got += f", {len(downsamplings)} downsampling"
        wanted = "a width, a depth >= 1 and one value of every other list per stage, a downsampling between two"
        raise argument_error(OPERATION, got, wanted, "correct the lengths")
    if len(grids) > stages:
        got = f"{len(grids)} position_sizes"
        raise argument_error(OPERATION, got, f"at most one for each of {stages} stages", "leave the others out")


def _check_names(initialisation: str, final_norm: str, blocks: Sequence[str]) -> None:
    """Raise for unknown names."""
    check_name(OPERATION, "initialisation", initialisation, INITIALISATIONS)
    check_name(OPERATION, "final_norm", final_norm, FINAL_NORMS)
    for kind in blocks:
        check_name(OPERATION, "stage_blocks", kind, BLOCKS)


def _downsamplings(names: Sequence[str], dims: Sequence[int], options: Mapping[str, Any]) -> nn.ModuleList:
    """What is in front of each stage but the first."""
    return nn.ModuleList(
        create_downsampling(name, d_in, d_out, **(options if name != "project" else {}))
        for name, (d_in, d_out) in zip(names, pairwise(dims), strict=True)
    )


def _stages(
    dims: Sequence[int],
    per_stage: Mapping[str, Sequence[Any]],
    mixer_options: Mapping[str, Any],
    block_options: Mapping[str, Any],
    drop_path: float,
) -> nn.ModuleList:
    """The blocks of each stage."""
    rates = iter(drop_path_rates(drop_path, sum(per_stage["depths"])))
    stages = nn.ModuleList()
    for stage, dim in enumerate(dims):
        own = {name: values[stage] for name, values in per_stage.items()}
        depth, options = own["depths"], {name: own[name] for name in ("mlp_ratio", "layer_scale", "stream_scale")}
        mixers = _mixers(own["mixer"], dim, depth, mixer_options, own["stage_options"])
        blocks = _blocks(own["stage_blocks"], dim, mixers, islice(rates, depth), {**options, **block_options})
        stages.append(nn.ModuleList(blocks))
    return stages


def _mixers(
    name: str | Sequence[str],
    dim: int,
    depth: int,
    shared: Mapping[str, Any],
    own: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> Iterator[Mixer2d]:
    """The mixers of the blocks of a stage, one after the other."""
    layers, names = [own] if isinstance(own, Mapping) else own, [name] if isinstance(name, str) else name
    return (
        create_mixer_2d(names[index % len(names)], dim, **{**shared, **layers[index % len(layers)]})
        for index in range(depth)
    )


def _blocks(
    kind: str, dim: int, mixers: Iterator[Mixer2d], rates: Iterator[float], options: Mapping[str, Any]
) -> Iterator[nn.Module]:
    """The blocks of a stage, around its mixers where they have any."""
    if kind == "inverted_residual":
        return (InvertedResidual(dim, drop_path=rate) for rate in rates)
    if kind == "mobile":
        return (MobileBlock(mixer, drop_path=rate) for mixer, rate in zip(mixers, rates, strict=True))
    return (Block2d(mixer, drop_path=rate, **options) for mixer, rate in zip(mixers, rates, strict=True))


def _position_tables(sizes: Sequence[int | Sequence[int]], dims: Sequence[int]) -> PositionTables:
    """The position embeddings of the first stages."""
    grids = [both_axes(size) for size in sizes]
    return PositionTables(nn.Parameter(torch.empty(*grid, dim)) for grid, dim in zip(grids, dims, strict=False))


def _shared_modules(stages: nn.ModuleList) -> nn.ModuleDict:
    """What the blocks of a stage share, by the number of the stage; the stage owns it, so that it is there once."""
    firsts = ((str(stage), blocks[0]) for stage, blocks in enumerate(stages))  # type: ignore[index]  # a ModuleList is typed as a Module
    modules = ((stage, block.mixer.shared_module()) for stage, block in firsts if isinstance(block, Block2d))
    return nn.ModuleDict({stage: module for stage, module in modules if module is not None})


def _final_norms(name: str, d_model: int, eps: float, options: Mapping[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The norm of the last map, and that of the pooled features."""
    if name == "pooled_layer":
        return nn.Identity(), LayerNorm(d_model, eps=eps)
    if name == "batch":
        return nn.Identity(), nn.BatchNorm1d(d_model, eps=eps)
    return nn.Identity() if name == "none" else create_image_norm(name, d_model, eps=eps, **options), nn.Identity()


def _each(value: Any, stages: int) -> list[Any]:
    """One value for each stage."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * stages
