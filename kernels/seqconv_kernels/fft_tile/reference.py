"""Readable form of a tile by FFT: one real transform of twice its size, any floating dtype and device."""

import torch
from torch import Tensor

from .spec import SpectrumInputs, TileInputs


def fft_tile_spectrum(inputs: SpectrumInputs) -> Tensor:
    """rfft(h, 2N)."""
    spectrum: Tensor = torch.fft.rfft(inputs.taps, n=2 * inputs.size)  # which leaves out the taps from 2N on
    return spectrum


def fft_tile(inputs: TileInputs) -> None:
    """Sums += irfft(rfft(x, 2N) rfft(h, 2N))[N:]; what wraps around the circle falls on the half that is left out."""
    x, spectrum, sums = inputs
    if 0 in x.shape:
        return
    size, channels = x.shape[1], spectrum.shape[0]
    transformed = torch.fft.rfft(x.transpose(1, 2), n=2 * size)  # an FFT is faster along the last axis
    product = (transformed.unflatten(1, (-1, channels)) * spectrum).flatten(1, 2)
    sums += torch.fft.irfft(product, n=2 * size)[:, :, size:].transpose(1, 2)
