"""Efficient forms in plain PyTorch, for any device.

Vandermonde: with ``l = T i + j`` the powers factor, ``z^l = (z^T)^i z^j``; two tables of about sqrt(length)
powers and one real matrix product per channel give all taps.

Cauchy: blocks of frequencies, whose matrices are made anew in the backward pass. Conjugates are computed at once:
the lazy ones of PyTorch are lost inside an operator that is called from a compiled graph.
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
    heads, channels, d_state = residues.shape
    fine = 1 << (math.isqrt(heads * length - 1) + 1 if heads * length > 1 else 1).bit_length() - 1
    fine = min(fine, length)
    coarse = -(-length // fine)
    low = _powers(log_poles, 1, fine)
    high = _powers(log_poles, fine, coarse)
    weighted = (residues[:, :, None] * high).transpose(0, 1)
    taps = _real_product(weighted.reshape(channels, heads * coarse, d_state), low)
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
    r: Tensor = _cauchy(v.resolve_conj(), poles.resolve_conj(), length)
    return r


@torch.library.custom_op("seqconv::cauchy", mutates_args=())
def _cauchy(v: Tensor, poles: Tensor, length: int) -> Tensor:
    """With ``X = 1 / (2i s - c poles)`` and ``Y`` its conjugate twin: ``r = v X + conj(v) Y``."""
    rows = v.transpose(0, 1)
    twins = rows.conj_physical()
    blocks = [rows @ X + twins @ Y for X, Y, _ in _blocks(poles, length)]
    return torch.cat(blocks, dim=-1).transpose(0, 1).contiguous()


@_cauchy.register_fake
def _(v: Tensor, poles: Tensor, length: int) -> Tensor:
    return v.new_empty(*v.shape[:2], length // 2 + 1)


@torch.library.custom_op("seqconv::cauchy_backward", mutates_args=())
def _cauchy_backward(gradient: Tensor, v: Tensor, poles: Tensor, length: int) -> tuple[Tensor, Tensor]:
    rows, g = v.transpose(0, 1), gradient.transpose(0, 1)
    columns = rows.conj_physical().mT
    grad_rows, grad_poles, start = torch.zeros_like(rows), torch.zeros_like(poles), 0
    for X, Y, cosine in _blocks(poles, length):
        g_block = g[..., start : start + len(cosine)]
        start += len(cosine)
        X, Y = X.conj_physical(), Y.conj_physical()
        grad_rows = grad_rows + g_block @ X.mT + (g_block @ Y.mT).conj_physical()
        grad_X, grad_Y = columns @ g_block, rows.mT @ g_block
        grad_poles = grad_poles + (grad_X * cosine * X.square()).sum(-1)
        grad_poles = grad_poles + (grad_Y * cosine * Y.square()).sum(-1).conj_physical()
    return grad_rows.transpose(0, 1).contiguous(), grad_poles


@_cauchy_backward.register_fake
def _(gradient: Tensor, v: Tensor, poles: Tensor, length: int) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), poles.new_empty(poles.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    v, poles, ctx.length = inputs
    ctx.save_for_backward(v, poles)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    grad_v, grad_poles = _cauchy_backward(gradient.resolve_conj(), *ctx.saved_tensors, ctx.length)
    return grad_v, grad_poles, None


_cauchy.register_autograd(_differentiate, setup_context=_keep)


def _blocks(poles: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """X, Y (channels, d_state, frequencies of a block) and the cosines, block after block."""
    s, c, twins = *half_angle_nodes(length, poles), poles.conj_physical()[..., None]
    size = max(1, BLOCK // max(1, poles.numel()))
    for sine, cosine in zip(s.split(size), c.split(size), strict=True):
        X = (2j * sine - cosine * poles[..., None]).reciprocal()
        Y = (2j * sine - cosine * twins).reciprocal()
        yield X, Y, cosine
