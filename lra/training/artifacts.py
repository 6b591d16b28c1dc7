"""What a finished run stores for reports: learned kernels, and test images with the model's answers.

``artifacts.npz`` holds, for models with long convolutions, the first layer's impulse responses of some channels
(``kernels`` over ``lags``, negative ones of the future), and for tasks of images the first of the test split with
their labels and the model's answers (``images``, ``labels``, ``answers``).
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from seqconv.convolution.replacement import long_convolutions

from ..data.store import atomic_write
from ..tasks import Row

NAME = "artifacts.npz"
CHANNELS, LAGS, IMAGES = 6, 512, 8
Arrays = Mapping[str, NDArray[Any]]


def write_artifacts(folder: Path, model: nn.Module, max_length: int, rows: Dataset[Row], answers: NDArray[Any]) -> None:
    """Write ``artifacts.npz`` into a run's folder.

    Args:
        folder: of the run.
        model: as trained.
        max_length: longest input of the task, in tokens.
        rows: the split that was answered last.
        answers: to these rows.
    """
    arrays = {**kernels(model, min(LAGS, max_length)), **images(rows, answers)}
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    atomic_write(folder / NAME, buffer.getvalue())


def read_artifacts(folder: Path) -> Arrays:
    """The arrays of a run's ``artifacts.npz``; none without one."""
    if not (folder / NAME).is_file():
        return {}
    with np.load(folder / NAME, allow_pickle=False) as arrays:
        return dict(arrays)


@torch.no_grad()
def kernels(model: nn.Module, length: int) -> Arrays:
    """Impulse responses of evenly spaced channels of the first long convolution, if there is one."""
    convolution = next(iter(long_convolutions(model).values()), None)
    if convolution is None:
        return {}
    kernel = convolution.kernels(length)[0]
    channels = np.linspace(0, len(kernel.past) - 1, min(CHANNELS, len(kernel.past))).round().astype(int)
    taps, lags = kernel.past[channels], np.arange(kernel.past.shape[1])
    if kernel.future is not None:
        ahead, lead = kernel.future[channels], kernel.lag
        if lead == 0:  # the tap of lag 0 counts with the past's
            taps = torch.cat([taps[:, :1] + ahead[:, :1], taps[:, 1:]], dim=1)
            ahead, lead = ahead[:, 1:], 1
        taps = torch.cat([ahead.flip(1), taps], dim=1)
        lags = np.concatenate([-np.arange(lead, lead + ahead.shape[1])[::-1], lags])
    return {"kernels": taps.float().cpu().numpy(), "lags": lags, "channels": channels}


def images(rows: Dataset[Row], answers: NDArray[Any]) -> Arrays:
    """The first images, where rows hold pixels, with labels and answers."""
    first = [rows[index] for index in range(min(IMAGES, len(rows)))]  # type: ignore[arg-type]
    if not first or "pixels" not in first[0]:
        return {}
    pixels = np.stack([row["pixels"] for row in first])
    return {"images": pixels, "labels": np.array([row["labels"] for row in first]), "answers": answers[: len(first)]}
