"""What backbones share: images in, one map of features per stage out."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LINEAR_INIT_STD = 0.02
"""Standard deviation of initial weights of linear layers in vision models, cut off at two of PyTorch's units."""


class ImageBackbone(nn.Module, ABC):
    """Base of all backbones.

    Attributes:
        in_channels: channels of the images.
        dims: width of each map of features.
        strides: pixels of a cell of each map along each axis.
        gradient_checkpointing: compute the blocks a second time in the backward pass instead of storing their inner
            values; may be changed at any time.
    """

    in_channels: int
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    gradient_checkpointing: bool

    @abstractmethod
    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch rows columns width"]]:
        """A map of features for every stage, the finest first, channels last.

        Raises:
            ValueError: other channels, images smaller than a patch.
        """

    @abstractmethod
    def pooled(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch d_model"]:
        """One vector for each image, normed: what a classifier reads."""

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        """A block, with or without its inner values."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            y: Tensor = checkpoint(block, x, use_reentrant=False)
            return y
        y = block(x)
        return y


class ImageClassifier(nn.Module):
    """A backbone and a linear layer on its pooled features.

    Args:
        backbone: the backbone.
        num_classes: logits; 0 leaves the linear layer out, and the pooled features are returned.
    """

    def __init__(self, backbone: ImageBackbone, num_classes: int) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.head = nn.Linear(backbone.dims[-1], num_classes) if num_classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small weights and no bias in the classifier."""
        if isinstance(self.head, nn.Linear):
            reset_linear(self.head)

    def forward_features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch rows columns width"]:
        """The last map of features."""
        features: list[Tensor] = self.backbone(images)
        return features[-1]

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """Logits.

        Raises:
            ValueError: as the backbone.
        """
        logits: Tensor = self.head(self.backbone.pooled(images))
        return logits


def reset_linear(linear: nn.Linear) -> None:
    """Draw the weight from a truncated normal distribution; a bias is zero."""
    nn.init.trunc_normal_(linear.weight, std=LINEAR_INIT_STD)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
