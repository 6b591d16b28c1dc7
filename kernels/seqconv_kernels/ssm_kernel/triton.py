"""The Vandermonde and Cauchy products in Triton, forward and backward.

Vandermonde, ``k[l] = Re(sum_n w_n z_n^l)`` with ``z = exp(log_pole)``: with lags ``l = l0 + T i + j`` a tile of taps is
a product of two matrices, ``Re(sum_n (w_n z_n^(l0 + T i)) z_n^j)``: (COARSE, poles) by (poles, FINE), so that a tile of
COARSE * FINE taps costs COARSE + FINE exponentials per pole. Every power comes from its own exponential, never from
another power: the phase is ``imag(log_pole) l`` in float64, reduced to one turn, so that it is exact at any lag.

Its adjoint, with ``dk = dL/dk``: the same products transposed, tile by tile over the lags::

    dw_n = conj(sum_l dk_l z_n^l),        dlog_pole_n = conj(w_n sum_l l dk_l z_n^l)

Cauchy, ``r(s) = sum_n Re(v) (q + q') + i Im(v) (q - q')`` with ``q = 1 / (2i s - c pole)``, s and c the sine and cosine
of half an angle, and q' the same for the conjugate pole. The differences ``2 s -+ c Im(pole)``, small at a resonance,
are taken in float64. Its adjoint, with ``g = dL/dr`` as a pair of real numbers, accumulates per pole

    dRe(v) = sum_s Re(g) Re(q + q') + Im(g) Im(q + q'),    dIm(v) = sum_s Im(g) Re(q - q') - Re(g) Im(q - q')
    dpole: the same with ``dq/dpole = c q^2`` in the place of q, times v

Sums over lags or frequencies are written in parts, one per program, which are added in a fixed order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.operator.double_backward import differentiate_again
from .._core.operator.operators import operator
from .._core.triton.functions import TYPES
from .._core.triton.support import on_device
from .nodes import half_angle_nodes
from .parts import (
    cauchy_gradients,
    empty_gradients,
    empty_resolvents,
    empty_taps,
    keep,
    to_numbers,
    to_parts,
    vandermonde_gradients,
)
from .spec import CauchyInputs, VandermondeInputs
from .triton_kernels import pairs_kernel, poles_kernel, resolvents_kernel, taps_kernel

FINE, COARSE = 64, 64
"""Lags of a tile: T neighbouring ones, and how many multiples of T; equal, as their sum is what powers cost."""
POLES, BACKWARD_POLES = 32, 16
"""Poles of a program at a time; the backward keeps twice as many matrices in registers."""
BACKWARD_FINE = 32
"""T of the backward: its products run in three passes of tf32, and with 64 it spills 800 bytes per thread."""
FREQUENCIES = 128
"""Frequencies of a program at a time, one per thread."""
SHARE = 2048
"""Frequencies that one program of the backward sums over, FREQUENCIES at a time: enough to pay for its final sum."""


def vandermonde(inputs: VandermondeInputs) -> Tensor:
    """k[l] = Re(sum_n residues_n exp(log_poles_n l))."""
    taps: Tensor = _vandermonde(to_parts(inputs.residues), to_parts(inputs.log_poles), inputs.length)
    return taps


def cauchy(inputs: CauchyInputs) -> Tensor:
    """The resolvent at the roots of unity."""
    return to_numbers(_cauchy(to_parts(inputs.v), to_parts(inputs.poles), inputs.length))


def _types(x: Tensor) -> tuple[tl.dtype, str]:
    return TYPES[x.dtype], "ieee" if x.dtype == torch.float64 else "tf32x3"


def _nodes(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return half_angle_nodes(length, like.new_empty(0, dtype=torch.float64))


@operator("vandermonde_triton", empty_taps)
def _vandermonde(residues: Tensor, log_poles: Tensor, length: int) -> Tensor:
    taps = empty_taps(residues, log_poles, length)
    heads, channels, poles, parts = residues.shape
    if residues.numel() == 0:
        return taps.zero_()
    grid = (triton.cdiv(length, FINE * COARSE), channels, heads)
    with on_device(taps):
        taps_kernel[grid](
            residues.contiguous(), log_poles.contiguous(), taps, channels, poles, length,
            parts, FINE, COARSE, POLES, *_types(taps), num_warps=8,
        )  # fmt: skip
    return taps


@operator("vandermonde_triton_backward", empty_gradients)
def _vandermonde_backward(residues: Tensor, log_poles: Tensor, dtaps: Tensor) -> tuple[Tensor, Tensor]:
    heads, channels, poles, parts = residues.shape
    if residues.numel() == 0:
        return torch.zeros_like(residues), torch.zeros_like(log_poles)
    # A program sums over one tile of lags; the tiles' parts are added in order below.
    tiles = triton.cdiv(dtaps.shape[2], BACKWARD_FINE * COARSE)
    dresidues, dpoles = residues.new_empty(2, tiles, *residues.shape)
    with on_device(dtaps):
        poles_kernel[(tiles * triton.cdiv(poles, BACKWARD_POLES), channels, heads)](
            residues.contiguous(), log_poles.contiguous(), dtaps.contiguous(), dresidues, dpoles, channels, poles,
            dtaps.shape[2], parts, BACKWARD_FINE, COARSE, BACKWARD_POLES, *_types(dtaps), num_warps=4,
        )  # fmt: skip
    # Poles are shared by the channels of a head: their gradient is summed over both axes.
    return dresidues.sum(0), dpoles.sum((0, 1))


@operator("cauchy_triton", empty_resolvents)
def _cauchy(v: Tensor, poles: Tensor, length: int) -> Tensor:
    r = empty_resolvents(v, poles, length)
    heads, channels, pairs, _ = v.shape
    if v.numel() == 0:
        return r.zero_()
    frequencies = r.shape[2]
    with on_device(r):
        resolvents_kernel[(triton.cdiv(frequencies, FREQUENCIES), channels, heads)](
            v.contiguous(), poles.contiguous(), *_nodes(length, v), r, channels, pairs, frequencies,
            FREQUENCIES, TYPES[v.dtype],
        )  # fmt: skip
    return r


@operator("cauchy_triton_backward", empty_gradients)
def _cauchy_backward(v: Tensor, poles: Tensor, length: int, dr: Tensor) -> tuple[Tensor, Tensor]:
    heads, channels, pairs, _ = v.shape
    if v.numel() == 0:
        return torch.zeros_like(v), torch.zeros_like(poles)
    # A program sums SHARE frequencies of `block` conjugate pairs of poles.
    shares, block = triton.cdiv(dr.shape[2], SHARE), min(16, triton.next_power_of_2(pairs))
    dv, dpoles = v.new_empty(2, shares, *v.shape)
    with on_device(dr):
        pairs_kernel[(shares * triton.cdiv(pairs, block), channels, heads)](
            v.contiguous(), poles.contiguous(), *_nodes(length, v), dr.contiguous(), dv, dpoles, channels, pairs,
            dr.shape[2], SHARE, FREQUENCIES, block, TYPES[v.dtype],
        )  # fmt: skip
    return dv.sum(0), dpoles.sum((0, 1))


def _differentiate_vandermonde(ctx: Any, dtaps: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_vandermonde_backward(*ctx.saved_tensors, dtaps), None


def _differentiate_cauchy(ctx: Any, dr: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_cauchy_backward(*ctx.saved_tensors, ctx.length, dr), None


_vandermonde.differentiate(keep, _differentiate_vandermonde)
_cauchy.differentiate(keep, _differentiate_cauchy)
differentiate_again(_vandermonde_backward, vandermonde_gradients)
differentiate_again(_cauchy_backward, cauchy_gradients)
