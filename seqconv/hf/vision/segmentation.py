"""Semantic segmentation: the maps of all stages, projected, resized to the finest and mixed cell by cell.

``z_i = resize(W_i norm(x_i))``, ``h = relu(norm(W [z_1, …, z_n]))``, logits ``V h``, as many as the finest map has
cells.

Source: the head of SegFormer, Xie et al. 2021 (arXiv 2105.15203), as transformers' SegformerDecodeHead.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from seqconv_kernels._core.errors import argument_error

from ...layers.norms import LayerNorm
from ..tasks.heads import mean_cross_entropy
from .configuration import SeqConvVisionConfig
from .models import SeqConvVisionModel, SeqConvVisionPreTrainedModel


class SegmentationHead(nn.Module):
    """Logits of every cell of the finest map.

    Args:
        dims: widths of the maps.
        hidden: width inside.
        labels: logits.
        dropout: of whole channels, in front of the classifier.
    """

    def __init__(self, dims: tuple[int, ...], hidden: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(dim) for dim in dims)
        self.projections = nn.ModuleList(nn.Linear(dim, hidden) for dim in dims)
        self.fuse = nn.Conv2d(len(dims) * hidden, hidden, 1, bias=False)
        self.fuse_norm = nn.BatchNorm2d(hidden)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(hidden, labels, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Float[Tensor, "batch labels rows columns"]:
        """Maps (batch, width, rows, columns) of all stages, the finest first."""
        size = maps[0].shape[2:]
        projected = [
            F.interpolate(project(norm(x.movedim(1, -1))).movedim(-1, 1), size=size, mode="bilinear")
            for x, norm, project in zip(maps, self.norms, self.projections, strict=True)
        ]
        hidden = F.relu(self.fuse_norm(self.fuse(torch.cat(projected, dim=1))))
        logits: Tensor = self.classifier(self.dropout(hidden))
        return logits


class SeqConvForSemanticSegmentation(SeqConvVisionPreTrainedModel):
    """A class for every pixel, at the resolution of the finest map (most often a quarter of that of the image)."""

    accepts_loss_kwargs = False

    def __init__(self, config: SeqConvVisionConfig) -> None:
        super().__init__(config)
        self.backbone = SeqConvVisionModel(config)
        with torch.device("meta"):
            dims, hidden = self.backbone.model.dims, config.decoder_hidden_size
            self.decode_head = SegmentationHead(dims, hidden, cast(int, config.num_labels), config.classifier_dropout)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """``logits`` (batch, num_labels, rows, columns); image processors resize them to the image.

        Args:
            labels: classes (batch, height, width) of the pixels, or ``config.semantic_loss_ignore_index``; adds
                ``loss``, the mean cross entropy of the logits resized to the image; 0 where no pixel has a class.

        Raises:
            ValueError: labels of another shape, a single class.
        """
        images = self._check_call(pixel_values, kwargs)
        found = self.backbone(images, output_hidden_states=True, return_dict=True)
        logits = self.decode_head(found.hidden_states)
        loss = None if labels is None else self._pixel_loss(logits, labels, images)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden = found.hidden_states if wanted else None
        output = SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=hidden)
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _pixel_loss(self, logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        if labels.shape != (images.shape[0], *images.shape[2:]) or cast(int, self.config.num_labels) < 2:
            got = f"labels of shape {tuple(labels.shape)}, num_labels={self.config.num_labels}"
            wanted = f"(batch, height, width) = {(len(images), *images.shape[2:])}, at least 2 classes"
            raise argument_error(type(self).__name__, got, wanted, "pass one class for each pixel")
        resized = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
        return mean_cross_entropy(resized.float(), labels, self.config.semantic_loss_ignore_index)
