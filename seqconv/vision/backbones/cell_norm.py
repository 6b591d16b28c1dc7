"""Batch norm of images with channels last."""

from jaxtyping import Float
from torch import Tensor, nn


class CellBatchNorm(nn.BatchNorm2d):
    """Statistics of each channel over the images and cells of a batch."""

    def forward(self, input: Float[Tensor, "batch rows columns channels"]) -> Tensor:
        """Normalise every channel."""
        return super().forward(input.movedim(-1, 1)).movedim(1, -1)
