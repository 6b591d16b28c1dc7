"""Readable form of :func:`seqconv_kernels.fft_conv`: one zero-padded FFT, any floating dtype."""

import torch
from torch import Tensor


def fft_conv(
    u: Tensor, h: Tensor, skip: Tensor | None, pre_gate: Tensor | None, post_gate: Tensor | None, history: Tensor | None
) -> Tensor:
    """y_t = post_t * (sum_s h[s] v_{t-s} + skip * v_t), with v = pre * u behind the ``history``."""
    dtype = torch.promote_types(torch.promote_types(u.dtype, h.dtype), torch.float32)
    v = u.to(dtype) if pre_gate is None else u.to(dtype) * pre_gate
    heard = v if history is None else torch.cat([history.to(dtype), v], dim=1)
    y = _convolve(heard, h[:, : heard.shape[1]].to(dtype))[:, heard.shape[1] - v.shape[1] :]
    if skip is not None:
        y = y + skip * v
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


def fast_size(n: int) -> int:
    """The smallest of 2^k, 3 * 2^k and 5 * 2^k from ``n`` on: prime lengths are slow."""
    power = 1 << (n - 1).bit_length()
    return min(size for size in (power, power * 3 // 4, power * 5 // 8) if size >= n and size * 8 >= power)
