"""Readable form of :func:`seqconv_kernels.fft_conv2d`: one zero-padded FFT of two dimensions, any floating dtype."""

import torch
from torch import Tensor

from .._core.precision import accumulation_dtype, no_autocast
from .spec import Inputs, taps_inside


def fft_conv2d(inputs: Inputs) -> Tensor:
    """On a torus that is large enough for nothing to wrap around."""
    u, h, skip = inputs.u, taps_inside(inputs), inputs.skip
    dtype = accumulation_dtype(u, h)
    if u.numel() == 0:
        return u * h.sum((1, 2)).to(u.dtype)  # empty too, and differentiable
    (height, width), (rows, columns) = u.shape[1:3], h.shape[1:]
    size = (height + rows - 1, width + columns - 1)
    with no_autocast(u):
        spectrum = torch.fft.rfft2(u.to(dtype).movedim(3, 1), s=size) * torch.fft.rfft2(h.to(dtype), s=size)
        y = torch.fft.irfft2(spectrum, s=size)[..., :height, :width].movedim(1, 3)
    z: Tensor = y if skip is None else y + skip * u
    return z.to(u.dtype)
