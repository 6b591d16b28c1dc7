"""Efficient forms in plain PyTorch, for any device.

Vandermonde: with ``l = T i + j`` the powers factor, ``z^l = (z^T)^i z^j``; two tables of about sqrt(length)
powers and one real matrix product per channel give all taps.

Cauchy: blocks of frequencies, whose matrices are computed again in the backward pass. The operator
takes real tensors: lazy conjugates are lost inside an operator that is called from a compiled graph.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._core.complex import as_complex
from .._core.precision import no_autocast
from .nodes import half_angle_nodes
from .spec import CauchyInputs, VandermondeInputs

BLOCK = 1 << 20
"""Entries of the Cauchy matrices that are in memory at once."""


def vandermonde(inputs: VandermondeInputs) -> Tensor:
    """k[T i + j] = Re(sum_n (residues_n z_n^(T i)) z_n^j)."""
    residues, log_poles, length = inputs
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
    with no_autocast(a):
        return a @ b.mT


def cauchy(inputs: CauchyInputs) -> Tensor:
    """Both terms of a pair over their common denominator::

    W = 1 / (c^2 |pole|^2 - 4 s^2 - 4i s c Re pole),    r = sum_n (4i s Re(v) - 2 c Re(v conj(pole))) W
    """
    v, poles, length = inputs
    rows = torch.cat([v.real, v.real * poles.real + v.imag * poles.imag]).transpose(0, 1)
    squares = poles.real.square() + poles.imag.square()
    with no_autocast(v):
        r: Tensor = _cauchy(rows.contiguous(), squares, poles.real.contiguous(), length)
    return as_complex(r.transpose(0, 1))


@torch.library.custom_op("seqconv::cauchy", mutates_args=())
def _cauchy(rows: Tensor, squares: Tensor, real: Tensor, length: int) -> Tensor:
    """The sums, (channels, heads, frequencies, 2), for ``[Re v, Re(v conj(pole))]``, (channels, 2 heads, d_state)."""
    blocks = []
    for s, c, W in _blocks(squares, real, length):
        (ur, ui), (tr, ti) = (half.chunk(2, dim=-1) for half in (rows @ W).chunk(2, dim=1))
        blocks.append(torch.stack([-4 * s * ui - 2 * c * tr, 4 * s * ur - 2 * c * ti], dim=-1))
    return torch.cat(blocks, dim=-2)


@_cauchy.register_fake
def _(rows: Tensor, squares: Tensor, real: Tensor, length: int) -> Tensor:
    return rows.new_empty(rows.shape[0], rows.shape[1] // 2, length // 2 + 1, 2)


@torch.library.custom_op("seqconv::cauchy_backward", mutates_args=())
def _cauchy_backward(
    gradient: Tensor, rows: Tensor, squares: Tensor, real: Tensor, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    grads, start = [torch.zeros_like(t) for t in (rows, squares, real)], 0
    for s, c, W in _blocks(squares, real, length):
        gr, gi = gradient[:, :, start : start + len(s)].unbind(-1)
        start += len(s)
        sums = torch.cat([torch.cat([4 * s * gi, -4 * s * gr], -1), torch.cat([-2 * c * gr, -2 * c * gi], -1)], 1)
        grads[0] += sums @ W.mT
        (wr, wi), (hr, hi) = W.chunk(2, dim=-1), (rows.mT @ sums).chunk(2, dim=-1)
        x, y = wr * wr - wi * wi, 2 * wr * wi
        grads[1] -= (hr * x + hi * y) @ (c * c)
        grads[2] += (hi * x - hr * y) @ (4 * s * c)
    return grads[0], grads[1], grads[2]


@_cauchy_backward.register_fake
def _(gradient: Tensor, rows: Tensor, squares: Tensor, real: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(squares), torch.empty_like(real)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    *tensors, ctx.length = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_cauchy_backward(gradient, *ctx.saved_tensors, ctx.length), None


_cauchy.register_autograd(_differentiate, setup_context=_keep)


def _blocks(squares: Tensor, real: Tensor, length: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Sines and cosines of a block of frequencies, and ``[Re W, Im W]`` (channels, d_state, 2 frequencies)."""
    size = max(1, BLOCK // max(1, squares.numel()))
    for s, c in zip(*(nodes.split(size) for nodes in half_angle_nodes(length, squares)), strict=True):
        a, b = c * c * squares[..., None] - 4 * s * s, -4 * s * c * real[..., None]
        norm = a * a + b * b
        yield s, c, torch.cat([a / norm, -b / norm], dim=-1)
