"""Readable form of :func:`seqconv_kernels.fft_conv`: one zero-padded FFT, any floating dtype."""

import math

import torch
from torch import Tensor

from .._core.non_finite import set_apart
from .isolation import signal
from .plan import grid_size, kept_frequencies
from .spec import Inputs


def fft_conv(inputs: Inputs) -> Tensor:
    """y_t = post_t * (sum_s h[s] v_{t-s} + skip * v_t), with v = pre * u after the ``history``."""
    u, h, skip, _, post_gate, _, limit = inputs
    extended = signal(inputs)
    past, taps = extended.shape[1] - u.shape[1], h[:, : extended.shape[1]].to(extended.dtype)
    if limit is None:
        finite, non_finite = set_apart(extended, 1)
        y = _convolve(finite, taps) + non_finite
    else:
        y = _convolve_low(extended, taps if skip is None else _with_skip(taps, skip), limit)
    y = y[:, past:]
    if skip is not None and limit is None:
        y = y + skip * extended[:, past:]
    return (y if post_gate is None else y * post_gate).to(u.dtype)


def _convolve(v: Tensor, taps: Tensor) -> Tensor:
    """Linear convolution cut to the length of ``v``; the length is moved last, where an FFT is four times faster."""
    if v.numel() == 0:
        return v * taps.sum(1)  # empty too, and differentiable
    size = fast_size(v.shape[1] + taps.shape[1] - 1)
    rows = v.transpose(1, 2).contiguous()
    spectrum = torch.fft.rfft(rows, n=size) * torch.fft.rfft(taps, n=size)
    y: Tensor = torch.fft.irfft(spectrum, n=size)[..., : v.shape[1]]
    return y.transpose(1, 2)


def _with_skip(taps: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([taps[:, :1] + skip[:, None], taps[:, 1:]], dim=1)


def _convolve_low(v: Tensor, taps: Tensor, limit: float) -> Tensor:
    """The same with a part of the spectrum of ``taps``: FFTs under the twist w^n, w = exp(i pi / 2M) (see plan.py)."""
    if v.numel() == 0:
        return v * taps.sum(1)
    size, length = grid_size(v.shape[1]), v.shape[1]
    twist = torch.polar(*(t.to(v.dtype) for t in _polar(size))).to(v.device)
    keep = kept_frequencies(size, limit).to(v.device)
    spectrum = torch.fft.fft(taps * twist[: taps.shape[1]], n=size) * keep
    spectrum = spectrum * torch.fft.fft(v.transpose(1, 2) * twist[:length], n=size)
    y: Tensor = (torch.fft.ifft(spectrum)[..., :length] * twist[:length].conj()).real
    return y.transpose(1, 2)


def _polar(size: int) -> tuple[Tensor, Tensor]:
    n = torch.arange(size, dtype=torch.float64)
    return torch.ones_like(n), n * (math.pi / (2 * size))


def fast_size(n: int) -> int:
    """The smallest of 2^k, 3 * 2^k and 5 * 2^k from ``n`` on: prime lengths are slow."""
    power = 1 << (n - 1).bit_length()
    return min(size for size in (power, power * 3 // 4, power * 5 // 8) if size >= n and size * 8 >= power)
