"""What backbones share: images in, one feature map per stage out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.initialisation import LINEAR_INIT_STD, reset_linear
from ...parameters import ShardedInGroups
from ...recomputation import checkpointed
from ..packed_images import PackedImages

CELL_SHARE = 0.5
"""Factor of the logits of single cells."""


class PooledFeatures(NamedTuple):
    """What a backbone returns to a model with a head.

    Attributes:
        maps: the feature maps; of packed images those of each image.
        last: what the last block returns; of packed images of each image.
        pooled: one vector for each image, normed.
    """

    maps: list[Any]
    last: Any
    pooled: Tensor


class ImageBackbone(ShardedInGroups, ABC):
    """Base of all backbones.

    Attributes:
        in_channels: channels of the images.
        d_model: width of the pooled features.
        d_cell: width of the last feature map.
        num_stages: stages, of a plain backbone blocks.
        out_indices: stages (of a plain backbone: blocks) whose outputs are the feature maps, counted from 0.
        dims: width of each feature map.
        strides: pixels of a cell of each map along each axis.
        gradient_checkpointing: compute the blocks a second time in the backward pass instead of storing their inner
            values; may be changed at any time.
        head_init_std: standard deviation of the initial weights of a classifier's linear layer; 0 for zeros, ``None``
            for Xavier's uniform ones.
        published: name of the published model and options beyond it, set by :func:`~seqconv.zoo.create_model`.
    """

    in_channels: int
    d_model: int
    d_cell: int
    num_stages: int
    out_indices: tuple[int, ...]
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    gradient_checkpointing: bool
    head_init_std: float | None = LINEAR_INIT_STD
    published: tuple[str, Mapping[str, Any]] | None = None

    @abstractmethod
    def features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[list[Float[Tensor, "batch _ _ _"]], Tensor]:
        """The feature maps, and what the last block returns, class token included.

        Raises:
            ValueError: other channels, images smaller than a patch.
        """

    @abstractmethod
    def pool(self, last: Tensor) -> Float[Tensor, "batch d_model"]:
        """One vector for each image, normed, from what the last block returns."""

    def forward(
        self, images: Float[Tensor, "batch channels height width"] | PackedImages, *, pooled: bool = False
    ) -> Any:
        """A feature map for each of ``out_indices``, the finest first: a list of (batch, rows, columns, width).

        What else a model needs is computed in the same call, so that hooks of the backbone see it (offloading, FSDP).

        Args:
            images: packed images have maps for each image, see :meth:`packed_features`.
            pooled: return :class:`PooledFeatures`.

        Raises:
            ValueError: as :meth:`features`.
        """
        if isinstance(images, PackedImages):
            found, parts = self.packed_features(images)
            return PooledFeatures(found, parts, torch.cat([self.pool(part) for part in parts])) if pooled else found
        maps, last = self.features(images)
        return PooledFeatures(maps, last, self.pool(last)) if pooled else maps

    def pooled(
        self, images: Float[Tensor, "batch channels height width"] | PackedImages
    ) -> Float[Tensor, "batch d_model"]:
        """One vector for each image, normed: what a classifier reads; also of packed images."""
        vectors: Tensor = self(images, pooled=True).pooled
        return vectors

    def packed_features(
        self, images: PackedImages
    ) -> tuple[list[list[Float[Tensor, "1 _ _ _"]]], list[Float[Tensor, "1 ..."]]]:
        """What :meth:`features` gives of packed images: every map as one of each image, and the last of each image.

        Raises:
            ValueError: a backbone that takes no packed images, patches of another size.
        """
        got, wanted = f"packed images for a {type(self).__name__}", "PlainBackbone or PlainBackbone2d"
        raise argument_error("packed_features", got, wanted, "pass images of one size at a time")

    def _run(self, block: nn.Module, x: Tensor, **arguments: Any) -> Tensor:
        """A block, with or without its inner values."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            y: Tensor = checkpointed(block, x, **arguments)
            return y
        y = block(x, **arguments)
        return y


BackboneT = TypeVar("BackboneT", bound=nn.Module)


class BackboneClassifier(nn.Module, Generic[BackboneT]):
    """Base of classifiers: a backbone, and a linear layer on its pooled features.

    Args:
        backbone: the backbone, with its width as ``d_model``.
        num_classes: logits; 0 leaves the linear layer out, and the pooled features are returned.
    """

    backbone: BackboneT

    def __init__(self, backbone: BackboneT, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.head = nn.Linear(cast(int, backbone.d_model), num_classes) if num_classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights and no bias in the classifier."""
        if isinstance(self.head, nn.Linear):
            reset_linear(self.head, getattr(self.backbone, "head_init_std", LINEAR_INIT_STD))


class ImageClassifier(BackboneClassifier[ImageBackbone]):
    """A classifier of images."""

    def forward_features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch rows columns d_cell"]:
        """The last of the feature maps."""
        features: list[Tensor] = self.backbone(images)
        return features[-1]

    def forward(
        self, images: Float[Tensor, "batch channels height width"] | PackedImages
    ) -> Float[Tensor, "batch classes"]:
        """Logits, also of packed images.

        Raises:
            ValueError: as the backbone.
        """
        logits: Tensor = self.head(self.backbone.pooled(images))
        return logits


class DistilledClassifier(ImageClassifier):
    """A classifier of images with a second head, which learned from a teacher: their mean, each with a batch norm.

    The backbone must not norm what it pools.
    """

    def __init__(self, backbone: ImageBackbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        self.norm, self.distilled_norm = nn.BatchNorm1d(backbone.d_model), nn.BatchNorm1d(backbone.d_model)
        self.distilled_head = nn.Linear(backbone.d_model, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights and no bias in both layers."""
        super().reset_parameters()
        if hasattr(self, "distilled_head"):
            reset_linear(self.distilled_head, self.backbone.head_init_std)

    def forward(self, images: Float[Tensor, "batch channels height width"] | PackedImages) -> Tensor:
        """Logits.

        Raises:
            ValueError: as the backbone.
        """
        pooled = self.backbone.pooled(images)
        logits: Tensor = (self.head(self.norm(pooled)) + self.distilled_head(self.distilled_norm(pooled))) / 2
        return logits


class TokenLabelClassifier(ImageClassifier):
    """A classifier of images that adds half of the largest logit of any cell, by a linear layer of its own.

    For what was trained with labels of single cells (Jiang et al. 2021, arXiv 2104.10858).
    """

    def __init__(self, backbone: ImageBackbone, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        self.cell_head = nn.Linear(backbone.d_cell, num_classes) if num_classes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights and no bias in both layers."""
        super().reset_parameters()
        if getattr(self, "cell_head", None) is not None:
            reset_linear(cast(nn.Linear, self.cell_head))

    def forward(
        self, images: Float[Tensor, "batch channels height width"] | PackedImages
    ) -> Float[Tensor, "batch classes"]:
        """Logits, also of packed images.

        Raises:
            ValueError: as the backbone.
        """
        found: PooledFeatures = self.backbone(images, pooled=True)
        logits: Tensor = self.head(found.pooled)
        if self.cell_head is None:
            return logits
        if isinstance(images, PackedImages):
            return torch.cat([self._with_cells(row[None], last) for row, last in zip(logits, found.last, strict=True)])
        return self._with_cells(logits, found.last)

    def _with_cells(self, logits: Tensor, last: Float[Tensor, "batch rows columns d_cell"]) -> Tensor:
        normed = cast(nn.Module, self.backbone.norm)(last)
        return add_cell_logits(logits, cast(nn.Linear, self.cell_head)(normed))


def add_cell_logits(
    logits: Float[Tensor, "batch classes"], cells: Float[Tensor, "batch rows columns classes"]
) -> Float[Tensor, "batch classes"]:
    """Half of the largest logit of any cell, added."""
    return logits + CELL_SHARE * cells.amax((1, 2))


class SpectrogramClassifier(ImageClassifier):
    """A classifier that reads a spectrogram as an image of one colour, low bands on top, time from left to right."""

    def forward(  # type: ignore[override]  # packed spectrograms have no use
        self, spectrograms: Float[Tensor, "batch frames bands"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            ValueError: another rank, spectrograms smaller than a patch.
        """
        if spectrograms.dim() != 3:
            got, wanted = f"spectrograms of shape {tuple(spectrograms.shape)}", "(batch, frames, bands)"
            raise argument_error("SpectrogramClassifier", got, wanted, "pass what a feature extractor gives")
        check_spectrogram_sizes("SpectrogramClassifier", spectrograms, self.backbone)
        return super().forward(spectrograms.mT[:, None])


def check_spectrogram_sizes(
    operation: str, spectrograms: Float[Tensor, "batch frames bands"], backbone: nn.Module
) -> None:
    """Raise for spectrograms smaller than what a backbone of images needs.

    Raises:
        ValueError: fewer frames or bands.
    """
    least: Any = getattr(backbone, "least", getattr(backbone, "patch_size", 1))
    bands, frames = (least, least) if isinstance(least, int) else least
    if spectrograms.shape[1] < frames or spectrograms.shape[2] < bands:
        got = f"spectrograms of {spectrograms.shape[1]} frames of {spectrograms.shape[2]} bands"
        wanted, remedy = f"at least {frames} frames of {bands} bands", "pad the recordings, and leave empty ones out"
        raise argument_error(operation, got, wanted, remedy)


def check_out_indices(operation: str, indices: Sequence[int], stages: int) -> tuple[int, ...]:
    """The indices as a tuple.

    Raises:
        ValueError: none, in another order than that of the stages, outside of them.
    """
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= stages:
        wanted = f"rising indices from 0 to {stages - 1}"
        raise argument_error(operation, f"out_indices={tuple(indices)}", wanted, "correct the indices")
    return tuple(indices)
