"""Efficient forms in plain PyTorch, for any device.

Vandermonde: with ``l = T i + j`` the powers factor, ``z^l = (z^T)^i z^j``; two tables of about sqrt(length)
powers and one real matrix product per channel give all taps.

Cauchy: blocks of frequencies, whose matrices are made anew in the backward pass.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .nodes import half_angle_nodes

BLOCK = 1 << 20
"""Entries of the Cauchy matrices that stand in memory at once."""


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


def cauchy(v: Tensor, poles: Tensor, length: int) -> Tensor:
    """r[f] = sum_n v_n / (2i s_f - c_f poles_n) + conj(v_n) / (2i s_f - c_f conj(poles_n))."""
    with torch.autocast(v.device.type, enabled=False):
        r: Tensor = _Cauchy.apply(v, poles, *half_angle_nodes(length, v))
    return r


class _Cauchy(torch.autograd.Function):
    """With ``X = 1 / (2i s - c poles)`` and ``Y`` its conjugate twin: ``r = v X + conj(v) Y``."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, poles: Tensor, s: Tensor, c: Tensor) -> Tensor:
        ctx.save_for_backward(v, poles, s, c)
        rows = v.transpose(0, 1)
        blocks = []
        for X, Y, _ in _blocks(poles, s, c):
            blocks.append(rows @ X + rows.conj() @ Y)
        return torch.cat(blocks, dim=-1).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        v, poles, s, c = ctx.saved_tensors
        rows, g = v.transpose(0, 1), gradient.transpose(0, 1)
        grad_rows, grad_poles, start = torch.zeros_like(rows), torch.zeros_like(poles), 0
        for X, Y, cosine in _blocks(poles, s, c):
            g_block = g[..., start : start + len(cosine)]
            start += len(cosine)
            grad_rows = grad_rows + g_block @ X.mH + (g_block @ Y.mH).conj()
            grad_X, grad_Y = rows.mH @ g_block, rows.mT @ g_block
            grad_poles = grad_poles + (grad_X * (cosine * X.square()).conj()).sum(-1)
            grad_poles = grad_poles + (grad_Y * (cosine * Y.square()).conj()).sum(-1).conj()
        return grad_rows.transpose(0, 1), grad_poles, None, None


def _blocks(poles: Tensor, s: Tensor, c: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """X, Y (channels, d_state, frequencies of a block) and the cosines, block after block."""
    size = max(1, BLOCK // max(1, poles.numel()))
    for sine, cosine in zip(s.split(size), c.split(size), strict=True):
        X = (2j * sine - cosine * poles[..., None]).reciprocal()
        Y = (2j * sine - cosine * poles.conj()[..., None]).reciprocal()
        yield X, Y, cosine
