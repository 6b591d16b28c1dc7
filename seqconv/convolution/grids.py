"""Convolution of maps with any number of axes, zero outside of the map or periodic along each axis, by FFT."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype


def convolve_grid(
    u: Float[Tensor, "batch *size channels"],
    taps: Float[Tensor, "#batch *taps channels"],
    periodic: Sequence[bool],
) -> Float[Tensor, "batch *size channels"]:
    """``y[n] = sum_l taps[l + r] u[n - l]`` in every channel, with r half of the (odd) number of taps along each axis.

    Computed in float32 at least.

    Args:
        u: maps.
        taps: the middle one is lag zero; one set for all maps or one for each.
        periodic: whether ``u`` continues from its other end along an axis, or with zeros.

    Raises:
        ValueError: an even number of taps, or more of them than there are lags.
    """
    size, widths = u.shape[1:-1], taps.shape[1:-1]
    if any(k % 2 == 0 or k > (n if wrap else 2 * n - 1) for n, k, wrap in zip(size, widths, periodic, strict=True)):
        got, wanted = f"{tuple(widths)} taps for {tuple(size)} cells", "odd numbers, at most 2 n - 1 for n cells (n if"
        raise argument_error("convolve_grid", got, f"{wanted} periodic)", "crop the taps")
    if u.shape[0] == 0:  # the FFT takes no empty batch
        return u.clone()
    axes = tuple(range(1, u.dim() - 1))
    lengths = [n if wrap else n + k // 2 for n, k, wrap in zip(size, widths, periodic, strict=True)]
    padding = [part for n, k in zip(lengths[::-1], widths[::-1], strict=True) for part in (0, n - k)]
    h = F.pad(taps, (0, 0, *padding)).roll([-(k // 2) for k in widths], axes)  # lag 0 first, lags below it at the end
    dtype = accumulation_dtype(u)
    spectrum = torch.fft.rfftn(u.to(dtype), s=lengths, dim=axes) * torch.fft.rfftn(h.to(dtype), s=lengths, dim=axes)
    y: Tensor = torch.fft.irfftn(spectrum, s=lengths, dim=axes)
    inside: Tensor = y[(slice(None), *(slice(n) for n in size))]
    return inside.to(u.dtype)
