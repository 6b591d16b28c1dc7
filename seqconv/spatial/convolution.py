"""Two-dimensional convolution that hears one quadrant, by FFT."""

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels.errors import refusal

from ..filters.base import accumulation_dtype


def convolve_2d(
    u: Float[Tensor, "batch channels height width"],
    taps: Float[Tensor, "channels rows columns"],
    *,
    skip: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """``y[i, j] = sum_{0<=a<=i, 0<=b<=j} taps[a, b] u[i-a, j-b] + skip u[i, j]`` in every channel.

    Computed in float32 at least, on a torus large enough that nothing wraps around. Taps beyond the map are not heard.

    Raises:
        ValueError: as many channels in the taps as in the signal are wanted.
    """
    if taps.shape[0] != u.shape[1]:
        got = f"{taps.shape[0]} channels of taps for {u.shape[1]} of the signal"
        raise refusal("convolve_2d", got, "equal channels", "repeat or select the taps")
    height, width = u.shape[2:]
    heard = taps[:, :height, :width]
    dtype = accumulation_dtype(u, taps)
    size = (height + heard.shape[1] - 1, width + heard.shape[2] - 1)
    with torch.autocast(u.device.type, enabled=False):
        spectrum = torch.fft.rfft2(u.to(dtype), s=size) * torch.fft.rfft2(heard.to(dtype), s=size)
        y: Tensor = torch.fft.irfft2(spectrum, s=size)[..., :height, :width]
        if skip is not None:
            y = y + skip[:, None, None] * u
    return y.to(u.dtype)
