"""Readable form of the direct sums, any floating dtype and device; no value is read back from the device."""

import torch
from torch import Tensor

from .._core.checks import check_floating
from .._core.operator.inputs import given_tensors
from .spec import StepInputs, TileInputs


def direct_conv_step(inputs: StepInputs) -> Tensor:
    """Y = sums[row] + sum_s taps[s] past[row - s]."""
    u, taps, past, sums, row, count = inputs
    check_floating("direct_conv_step", given_tensors(inputs), u.device)
    past[:, row] = u
    first = row + 1 - count
    recent = past[:, first : row + 1] if first >= 0 else torch.cat([past[:, first:], past[:, : row + 1]], dim=1)
    y = sums[:, row] + (recent * taps[:count].flip(0)).sum(1)
    sums[:, row] = 0
    return y.to(u.dtype)


def direct_conv_tile(inputs: TileInputs) -> None:
    """sums[i] += sum_j taps[lag + i - j] x[j]; what wraps around the circle falls on outputs that are left out."""
    x, taps, sums, lag = inputs
    check_floating("direct_conv_tile", given_tensors(inputs), x.device)
    if x.numel() == 0:  # FFT libraries have no plan for an empty batch
        return
    n, outputs = x.shape[1], sums.shape[1]
    size, near = n + outputs, taps[lag + 1 - n : lag + outputs]
    spectrum = torch.fft.rfft(x, n=size, dim=1) * torch.fft.rfft(near, n=size, dim=0)
    sums += torch.fft.irfft(spectrum, n=size, dim=1)[:, n - 1 : n - 1 + outputs]
