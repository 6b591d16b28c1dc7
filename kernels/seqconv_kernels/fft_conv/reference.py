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
    taps = h[:, : heard.shape[1]].to(dtype)
    size = heard.shape[1] + taps.shape[1] - 1
    spectrum = torch.fft.rfft(heard, n=size, dim=1) * torch.fft.rfft(taps.T, n=size, dim=0)
    y: Tensor = torch.fft.irfft(spectrum, n=size, dim=1)[:, heard.shape[1] - v.shape[1] : heard.shape[1]]
    if skip is not None:
        y = y + skip * v
    return (y if post_gate is None else y * post_gate).to(u.dtype)
