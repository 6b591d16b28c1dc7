"""Efficient forms in plain PyTorch, for any device.

Vandermonde: with ``l = T i + j`` the powers factor, ``z^l = (z^T)^i z^j``; two tables of about sqrt(length)
powers and one real matrix product per channel give all taps.
"""

import math

import torch
from torch import Tensor


def vandermonde(residues: Tensor, log_poles: Tensor, length: int) -> Tensor:
    """k[T i + j] = Re(sum_n (residues_n z_n^(T i)) z_n^j)."""
    heads, channels, _ = residues.shape
    fine = 1 << (math.isqrt(heads * length - 1) + 1 if heads * length > 1 else 1).bit_length() - 1
    fine = min(fine, length)
    coarse = -(-length // fine)
    low = _powers(log_poles, 1, fine)
    high = _powers(log_poles, fine, coarse)
    weighted = (residues[:, :, None] * high).transpose(0, 1)
    taps = _real_product(weighted.reshape(channels, heads * coarse, -1), low)
    return taps.view(channels, heads, coarse * fine).transpose(0, 1)[..., :length]


def _powers(log_poles: Tensor, stride: int, count: int) -> Tensor:
    """``exp(log_poles * stride * i)`` for i = 0 .. count - 1, shape (channels, count, d_state)."""
    steps = stride * torch.arange(count, device=log_poles.device).to(log_poles.real.dtype)
    return torch.exp(log_poles[:, None] * steps[:, None])


def _real_product(a: Tensor, b: Tensor) -> Tensor:
    """``Re(a @ b^T)`` per channel as one real product."""
    if a.is_complex():
        a, b = torch.cat([a.real, -a.imag], dim=-1), torch.cat([b.real, b.imag], dim=-1)
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.mT
