"""The convolution of maps as one long convolution: rows behind each other, with room between them for what leaves one.

With rows of ``P >= width + columns - 1`` values, zero behind the map and the filter, lag (a, b) is lag ``a P + b``, and
nothing of a row reaches the next one.
"""

import torch.nn.functional as F
from torch import Tensor

from .._core.dispatch import Call
from ..fft_conv import fft_conv


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    return "the maps are empty" if 0 in call.given()["u"].shape else None


def fft_conv2d(u: Tensor, h: Tensor, skip: Tensor | None) -> Tensor:
    """``y = fft_conv(rows of u, rows of h)``."""
    (batch, height, width, channels), columns = u.shape, h.shape[2]
    spaced = F.pad(u, (0, 0, 0, columns - 1)).flatten(1, 2)
    taps = F.pad(h, (0, width - 1)).flatten(1)
    return fft_conv(spaced, taps, skip=skip).view(batch, height, -1, channels)[:, :, :width]
