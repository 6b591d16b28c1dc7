"""Images read pixel by pixel: a dataset over bytes, and the scalings that the conventions put them in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from seqconv_kernels._core.errors import argument_error

from .files import FRESH, read_text, text_lines

Bytes = NDArray[np.uint8]
Scale = float | tuple[float, float, float]

SCALINGS: Mapping[str, tuple[Scale, Scale]] = {
    "unit": (0.0, 1.0),
    "centred": (0.5, 0.5),
    "cifar": (122.6 / 255, 61.0 / 255),
    "cifar-mega": (0.48, 0.24),
    "cifar-colour": ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
}
"""Offset and divisor of pixels in [0, 1], by name; of each colour where there are three."""


MEGA_SPLITS = {"train": "train", "val": "valid", "test": "test"}


def in_mega_layout(source: Path) -> bool:
    """Whether a folder holds ``input/<split>.src`` and ``label/<split>.label``, as MEGA stores images."""
    return (source / "input" / "train.src").is_file()


def count_mega_rows(source: Path, split: str) -> int:
    """Images of a split in MEGA's layout: its labels."""
    return len(_mega_labels(source, split))


def mega_rows(source: Path, split: str, size: int) -> Iterator[tuple[Bytes, int]]:
    """Images and labels in MEGA's layout: grey values between spaces, a line for each image; a label per line.

    Raises:
        ValueError: a missing file, a line that is no image of that size, or another number of lines than of labels.
    """
    path, labels, number = source / "input" / f"{MEGA_SPLITS[split]}.src", _mega_labels(source, split), 0
    for number, line in text_lines(path):
        cells = line.split()
        grey = len(cells) == size**2 and all(cell.isascii() and cell.isdecimal() and int(cell) < 256 for cell in cells)
        if not grey or number > len(labels):
            got = f"line {number} of {len(cells)} values, with {len(labels)} labels in all"
            raise argument_error(f"read {path}", got, f"{size**2} values from 0 to 255, and a label", FRESH)
        yield np.array(cells, np.uint8).reshape(size, size), labels[number - 1]
    if number < len(labels):
        raise argument_error(f"read {path}", f"{number} lines", f"{len(labels)}, one for each label", FRESH)


def _mega_labels(source: Path, split: str) -> list[int]:
    path = source / "label" / f"{MEGA_SPLITS[split]}.label"
    text = read_text(path).split() if path.is_file() else ["nothing"]
    if not all(label.isdecimal() for label in text):
        raise argument_error(f"read {path}", "a line that is no label, or no file", "a whole number per line", FRESH)
    return [int(label) for label in text]


class PixelDataset(Dataset[dict[str, Any]]):
    """Rows ``{"pixels": (height, width) bytes, or (height, width, 3), "labels": label}``.

    Args:
        pixels: ``(images, height, width)``, perhaps with colours last, possibly a memory map.
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
        offset, divisor = (torch.tensor(scale).reshape(-1, 1, 1) for scale in SCALINGS[self.scaling])
        planes = pixels[:, None] if pixels.dim() == 3 else pixels.movedim(3, 1)
        return {"pixel_values": (planes / 255 - offset) / divisor, "labels": labels}
