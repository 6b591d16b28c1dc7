"""Readable form of the direct sums, any floating dtype and device; no value is read back from the device."""

import torch
from torch import Tensor

from .._core.checks import check_floating


def direct_conv_step(u: Tensor, taps: Tensor, past: Tensor, sums: Tensor, row: int, count: int) -> Tensor:
    """Y = sums[row] + sum_s taps[s] past[row - s]."""
    check_floating("direct_conv_step", {"u": u, "taps": taps, "past": past, "sums": sums}, u.device)
    past[:, row] = u
    first = row + 1 - count
    heard = past[:, first : row + 1] if first >= 0 else torch.cat([past[:, first:], past[:, : row + 1]], dim=1)
    y = sums[:, row] + (heard * taps[:count].flip(0)).sum(1)
    sums[:, row] = 0
    return y.to(u.dtype)


def direct_conv_tile(x: Tensor, taps: Tensor, sums: Tensor, lag: int) -> None:
    """sums[i] += sum_j taps[lag + i - j] x[j]; what the circle wraps around falls on outputs nobody asked for."""
    check_floating("direct_conv_tile", {"x": x, "taps": taps, "sums": sums}, x.device)
    heard, due = x.shape[1], sums.shape[1]
    size, near = heard + due, taps[lag + 1 - heard : lag + due]
    spectrum = torch.fft.rfft(x, n=size, dim=1) * torch.fft.rfft(near, n=size, dim=0)
    sums += torch.fft.irfft(spectrum, n=size, dim=1)[:, heard - 1 : heard - 1 + due]
