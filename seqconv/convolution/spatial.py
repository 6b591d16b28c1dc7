"""Two-dimensional convolution over one quadrant, by FFT."""

from jaxtyping import Float
from torch import Tensor

from seqconv_kernels import fft_conv2d
from seqconv_kernels._core.errors import argument_error


def convolve_2d(
    u: Float[Tensor, "batch channels height width"],
    taps: Float[Tensor, "channels rows columns"],
    *,
    skip: Float[Tensor, " channels"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """``y[i, j] = sum_{0<=a<=i, 0<=b<=j} taps[a, b] u[i-a, j-b] + skip u[i, j]`` in every channel.

    Computed in float32 at least. Taps beyond the image have no effect.

    Raises:
        ValueError: as many channels in the taps as in the signal are wanted.
    """
    if taps.shape[0] != u.shape[1]:
        got = f"{taps.shape[0]} channels of taps for {u.shape[1]} of the signal"
        raise argument_error("convolve_2d", got, "equal channels", "repeat or select the taps")
    return fft_conv2d(u.movedim(1, 3), taps, skip=skip).movedim(3, 1)
