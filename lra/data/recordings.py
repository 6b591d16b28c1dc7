"""Recordings of one length: a dataset over samples or features, and the collator that scales and thins them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

CHUNK = 256
"""Recordings that are read at a time for statistics."""


class Recordings(Dataset[dict[str, Any]]):
    """Rows ``{"samples": (length, channels), "labels": label}``.

    Args:
        samples: (recordings, length, channels), possibly a memory map.
        labels: a class of each, or a row of 0 and 1.
        order: positions of the rows.
    """

    def __init__(self, samples: NDArray[Any], labels: NDArray[Any], order: NDArray[np.int64]) -> None:
        self.samples, self.labels, self.order = samples, labels, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = self.order[index]
        return {"samples": self.samples[place], "labels": self.labels[place]}


@dataclass(frozen=True)
class RecordingCollate:
    """Collator: ``(x - mean) / deviation`` per channel, then every ``step``-th sample.

    Attributes:
        mean, deviation: one number per channel, in units of the stored samples.
        every: 1 takes all samples.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    every: int = 1

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        samples: Float[Tensor, "batch length channels"]
        samples = torch.from_numpy(np.stack([row["samples"][:: self.every] for row in rows])).float()
        scaled = (samples - torch.tensor(self.mean)) / torch.tensor(self.deviation)
        return {"input_values": scaled, "labels": torch.from_numpy(np.stack([row["labels"] for row in rows]))}


def channel_statistics(samples: NDArray[Any], order: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and sample standard deviation per channel over some recordings."""
    count, total = 0, np.zeros(samples.shape[2])
    for start in range(0, len(order), CHUNK):
        part = samples[order[start : start + CHUNK]].astype(np.float64)
        count, total = count + part.shape[0] * part.shape[1], total + part.sum((0, 1))
    mean, squares = total / count, np.zeros(samples.shape[2])
    for start in range(0, len(order), CHUNK):
        squares += ((samples[order[start : start + CHUNK]].astype(np.float64) - mean) ** 2).sum((0, 1))
    return mean.tolist(), np.sqrt(squares / max(1, count - 1)).tolist()
