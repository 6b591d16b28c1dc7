"""Convolution of maps with any number of axes, zero outside of the map or periodic along each axis, by FFT."""

from collections.abc import Callable, Sequence

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
    return _convolve("convolve_grid", u, taps, periodic, torch.mul)


def mix_grid(
    u: Float[Tensor, "batch *size inputs"], taps: Float[Tensor, "1 *taps pairs"]
) -> Float[Tensor, "batch *size outputs"]:
    """``y_o[n] = sum_i sum_l taps_{o,i}[l + r] u_i[n - l]``: as :func:`convolve_grid`, from all channels to all others.

    Args:
        u: maps, zero outside.
        taps: for every output and input, the inputs counted first.

    Raises:
        ValueError: as :func:`convolve_grid`.
    """

    def mix(maps: Tensor, kernels: Tensor) -> Tensor:
        return torch.einsum("b...i,...oi->b...o", maps, kernels[0].unflatten(-1, (-1, maps.shape[-1])))

    return _convolve("mix_grid", u, taps, [False] * (u.dim() - 2), mix)


def _convolve(
    operation: str,
    u: Tensor,
    taps: Tensor,
    periodic: Sequence[bool],
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The convolution; ``multiply`` joins the spectra of maps and taps."""
    size, widths = u.shape[1:-1], taps.shape[1:-1]
    if any(k % 2 == 0 or k > (n if wrap else 2 * n - 1) for n, k, wrap in zip(size, widths, periodic, strict=True)):
        got, wanted = f"{tuple(widths)} taps for {tuple(size)} cells", "odd numbers, at most 2 n - 1 for n cells (n if"
        raise argument_error(operation, got, f"{wanted} periodic)", "crop the taps")
    if u.shape[0] == 0:  # the FFT takes no empty batch
        cell = (slice(None), *[slice(1)] * len(size))
        return multiply(u[cell], taps[cell]).expand(-1, *size, -1).to(u.dtype)
    axes = tuple(range(1, u.dim() - 1))
    lengths = [n if wrap else n + k // 2 for n, k, wrap in zip(size, widths, periodic, strict=True)]
    padding = [part for n, k in zip(lengths[::-1], widths[::-1], strict=True) for part in (0, n - k)]
    h = F.pad(taps, (0, 0, *padding)).roll([-(k // 2) for k in widths], axes)  # lag 0 first, lags below it at the end
    dtype = accumulation_dtype(u)
    maps, kernels = (torch.fft.rfftn(t.to(dtype), s=lengths, dim=axes) for t in (u, h))
    y: Tensor = torch.fft.irfftn(multiply(maps, kernels), s=lengths, dim=axes)
    inside: Tensor = y[(slice(None), *(slice(n) for n in size))]
    return inside.to(u.dtype)
