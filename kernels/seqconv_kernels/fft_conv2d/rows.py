"""The two-dimensional convolution as one long convolution of the rows one after another, with zeros between them.

With rows of ``P >= width + columns - 1`` values, zeros at the end of those of the feature map and the filter, lag
(a, b) is lag ``a P + b``, and nothing of a row reaches the next one.
"""

import torch.nn.functional as F
from torch import Tensor

from .._core.precision import accumulation_dtype
from ..fft_conv import fft_conv
from .spec import Inputs, taps_inside


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    return "the feature maps are empty" if 0 in inputs.u.shape else None


def fft_conv2d(inputs: Inputs) -> Tensor:
    """``y = fft_conv(rows of u, rows of h)``."""
    u, h = inputs.u, taps_inside(inputs)
    (batch, height, width, _), columns = u.shape, h.shape[2]
    spaced = F.pad(u, (0, 0, 0, columns - 1)).flatten(1, 2)
    taps = F.pad(h, (0, width - 1)).flatten(1)
    y = fft_conv(spaced, taps, skip=inputs.skip).view(batch, height, -1, u.shape[3])[:, :, :width]
    # A feature map has no earlier and later: what is not finite makes all of its channel NaN, as one transform does.
    return y + (0 * u.detach().sum((1, 2), keepdim=True, dtype=accumulation_dtype(u))).to(y.dtype)
