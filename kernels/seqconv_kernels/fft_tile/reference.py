"""Readable form of a tile by FFT: one real transform of twice its size, any floating dtype and device."""

import torch
from torch import Tensor


def fft_tile_spectrum(taps: Tensor, size: int) -> Tensor:
    """rfft(h, 2N)."""
    spectrum: Tensor = torch.fft.rfft(taps, n=2 * size)
    return spectrum


def fft_tile(x: Tensor, spectrum: Tensor, sums: Tensor) -> None:
    """Sums += irfft(rfft(x, 2N) rfft(h, 2N))[N:]; what the circle wraps around falls on the half that is left out."""
    if 0 in x.shape:
        return
    size, channels = x.shape[1], spectrum.shape[0]
    heard = torch.fft.rfft(x.transpose(1, 2), n=2 * size)  # an FFT is faster along the last axis
    product = (heard.unflatten(1, (-1, channels)) * spectrum).flatten(1, 2)
    sums += torch.fft.irfft(product, n=2 * size)[:, :, size:].transpose(1, 2)
