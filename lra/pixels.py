"""Grey images read pixel by pixel: a dataset over bytes, and the scalings that the conventions put them in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Bytes = NDArray[np.uint8]

SCALINGS: Mapping[str, tuple[float, float]] = {
    "unit": (0.0, 1.0),
    "centred": (0.5, 0.5),
    "cifar": (122.6 / 255, 61.0 / 255),
    "cifar-mega": (0.48, 0.24),
}
"""Offset and divisor of pixels in [0, 1], by name."""


class PixelDataset(Dataset[dict[str, Any]]):
    """Rows ``{"pixels": (height, width) bytes, "labels": label}``.

    Args:
        pixels: ``(images, height, width)``, possibly a memory map.
        labels: of each image.
        order: positions of the rows; all in their order by default.
    """

    def __init__(self, pixels: Bytes, labels: NDArray[np.int64], order: NDArray[np.int64] | None = None) -> None:
        self.pixels, self.labels = pixels, labels
        self.order = np.arange(len(labels)) if order is None else order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = self.order[index]
        return {"pixels": self.pixels[place], "labels": int(self.labels[place])}


@dataclass(frozen=True)
class PixelCollate:
    """Collator of images of one size.

    Attributes:
        scaling: a name in :data:`SCALINGS`, or ``tokens``: ids 0 to 255, row by row, instead of ``pixel_values``.
    """

    scaling: str

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        pixels = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
        labels = torch.tensor([row["labels"] for row in rows])
        if self.scaling == "tokens":
            return {"input_ids": pixels.flatten(1).long(), "labels": labels}
        offset, divisor = SCALINGS[self.scaling]
        return {"pixel_values": (pixels[:, None] / 255 - offset) / divisor, "labels": labels}
