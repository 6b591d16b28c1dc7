"""The Vandermonde and Cauchy products in Triton, forward and backward.

Vandermonde: with lags ``l = l0 + T i + j`` a tile of taps is a matrix product,
``Re(sum_n (residues_n z_n^(l0 + T i)) z_n^j)``; its gradients are ``sum_l dk_l z^l`` and ``sum_l l dk_l z^l``, the
same product turned round. Every power comes from its own exponential: the phase is ``imag(log_pole) l`` in float64,
reduced to one turn, so that it is exact at any lag.

Cauchy: with ``q = 1 / (2i s - c pole)`` and q' for the conjugate pole, ``r = sum_n Re(v) (q + q') + i Im(v) (q - q')``;
the differences ``2 s -+ c Im(pole)``, small at a resonance, are taken in float64.

Sums over lags or frequencies go to parts, which are added in a fixed order.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.double_backward import differentiate_again
from .._core.operators import operator
from .._core.triton_functions import TYPES
from .._core.triton_support import on_device
from .nodes import half_angle_nodes
from .parts import (  # fmt: skip
    cauchy_gradients,
    gradients_room,
    keep,
    resolvents_room,
    taps_room,
    to_numbers,
    to_parts,
    vandermonde_gradients,
)

FINE, COARSE = 64, 64
"""Lags of a tile: T, and how many times T."""
POLES, POLES_BACKWARDS = 32, 16
FREQUENCIES = 128
SHARE = 2048
"""Frequencies that one program sums over."""


@triton.jit
@no_type_check
def _powers(log_poles, at, live, lags, PARTS: tl.constexpr, SUMS: tl.constexpr):
    """``z^lags`` of the poles ``at``, both broadcast; the imaginary part is the real one where there is none."""
    rate = tl.load(log_poles + at * PARTS, mask=live, other=0).to(tl.float64)
    size = tl.exp((rate * lags).to(SUMS))
    re, im = size, size
    if PARTS == 2:
        turns = tl.load(log_poles + at * PARTS + 1, mask=live, other=0).to(tl.float64) * lags * 0.15915494309189535
        angle = ((turns - tl.floor(turns + 0.5)) * 6.283185307179586).to(SUMS)
        re, im = size * tl.cos(angle), size * tl.sin(angle)
    return re, im


@triton.jit
@no_type_check
def _taps_kernel(
    residues, log_poles, taps, channels, poles, length,
    PARTS: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr, POLES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c, head = tl.program_id(1), tl.program_id(2)
    i, j, start = tl.arange(0, COARSE), tl.arange(0, FINE), tl.program_id(0).to(tl.int64) * (FINE * COARSE)
    sums = tl.zeros([COARSE, FINE], SUMS)
    for first in tl.range(0, poles, POLES):
        n = first + tl.arange(0, POLES)
        at, live = c.to(tl.int64) * poles + n, n < poles
        hr, hi = _powers(log_poles, at[None, :], live[None, :], (start + FINE * i)[:, None], PARTS, SUMS)
        lr, li = _powers(log_poles, at[:, None], live[:, None], j[None, :], PARTS, SUMS)
        weights = residues + (head.to(tl.int64) * channels * poles + at) * PARTS
        wr = tl.load(weights, mask=live, other=0).to(SUMS)[None, :]
        if PARTS == 2:
            wi = tl.load(weights + 1, mask=live, other=0).to(SUMS)[None, :]
            hr, hi = wr * hr - wi * hi, wr * hi + wi * hr
            sums = tl.dot(-hi, li, sums, input_precision=PRECISION, out_dtype=SUMS)
        else:
            hr *= wr
        sums = tl.dot(hr, lr, sums, input_precision=PRECISION, out_dtype=SUMS)
    lag = start + FINE * i[:, None] + j[None, :]
    taps += (head.to(tl.int64) * channels + c) * length
    tl.store(taps + lag, sums.to(taps.dtype.element_ty), mask=lag < length)


@triton.jit
@no_type_check
def _poles_kernel(
    residues, log_poles, dtaps, dresidues, dpoles, channels, poles, length,
    PARTS: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr, POLES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Parts of the gradients, of one tile of lags and one head: those of ``conj(sum_l dk_l z^l)`` and of the poles."""
    tile, c, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(poles, POLES)
    start, n = tile // blocks * (FINE * COARSE), tile % blocks * POLES + tl.arange(0, POLES)
    i, j = tl.arange(0, COARSE), tl.arange(0, FINE)
    at, live = c * poles + n, n < poles
    lags, row = start + FINE * i, (head * channels + c) * length
    lag = lags[:, None] + j[None, :]
    g = tl.load(dtaps + row + lag, mask=lag < length, other=0).to(SUMS)
    hr, hi = _powers(log_poles, at[None, :], live[None, :], lags[:, None], PARTS, SUMS)
    lr, li = _powers(log_poles, at[None, :], live[None, :], j[:, None], PARTS, SUMS)
    rising, late = g * j[None, :].to(SUMS), lags[:, None].to(SUMS)
    ur = tl.dot(g, lr, input_precision=PRECISION, out_dtype=SUMS)
    wr = late * ur + tl.dot(rising, lr, input_precision=PRECISION, out_dtype=SUMS)
    place = (((tile // blocks) * tl.num_programs(2) + head) * channels + c) * poles + n
    weights = residues + ((head * channels + c) * poles + n) * PARTS
    ar = tl.load(weights, mask=live, other=0).to(SUMS)
    if PARTS == 2:
        ui = tl.dot(g, li, input_precision=PRECISION, out_dtype=SUMS)
        wi = late * ui + tl.dot(rising, li, input_precision=PRECISION, out_dtype=SUMS)
        sr, si = tl.sum(hr * wr - hi * wi, 0), tl.sum(hr * wi + hi * wr, 0)
        ai = tl.load(weights + 1, mask=live, other=0).to(SUMS)
        tl.store(dresidues + place * 2, tl.sum(hr * ur - hi * ui, 0), mask=live)
        tl.store(dresidues + place * 2 + 1, -tl.sum(hr * ui + hi * ur, 0), mask=live)
        tl.store(dpoles + place * 2, ar * sr - ai * si, mask=live)
        tl.store(dpoles + place * 2 + 1, -(ar * si + ai * sr), mask=live)
    else:
        tl.store(dresidues + place, tl.sum(hr * ur, 0), mask=live)
        tl.store(dpoles + place, ar * tl.sum(hr * wr, 0), mask=live)


@triton.jit
@no_type_check
def _resolvent(poles, at, live, sine, cosine, SUMS: tl.constexpr):
    """The real and imaginary parts of q and q' of the poles ``at``."""
    pr = tl.load(poles + at * 2, mask=live, other=1).to(tl.float64)
    pi = tl.load(poles + at * 2 + 1, mask=live, other=0).to(tl.float64)
    x = (-cosine * pr).to(SUMS)
    y, conjugate = (2 * sine - cosine * pi).to(SUMS), (2 * sine + cosine * pi).to(SUMS)
    size, other = 1 / (x * x + y * y), 1 / (x * x + conjugate * conjugate)
    return x * size, -y * size, x * other, -conjugate * other


@triton.jit
@no_type_check
def _resolvents_kernel(
    v, poles, sines, cosines, r, channels, pairs, frequencies, BLOCK: tl.constexpr, SUMS: tl.constexpr
):  # fmt: skip
    c, head = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    f = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = f < frequencies
    sine, cosine = tl.load(sines + f, mask=live, other=1), tl.load(cosines + f, mask=live, other=1)
    re, im = tl.zeros([BLOCK], SUMS), tl.zeros([BLOCK], SUMS)
    for n in tl.range(pairs):
        qr, qi, kr, ki = _resolvent(poles, c * pairs + n, n < pairs, sine, cosine, SUMS)
        weight = v + ((head * channels + c) * pairs + n) * 2
        a, b = tl.load(weight).to(SUMS), tl.load(weight + 1).to(SUMS)
        re += a * (qr + kr) - b * (qi - ki)
        im += a * (qi + ki) + b * (qr - kr)
    place = ((head * channels + c) * frequencies + f) * 2
    tl.store(r + place, re, mask=live)
    tl.store(r + place + 1, im, mask=live)


@triton.jit
@no_type_check
def _pairs_kernel(
    v, poles, sines, cosines, dr, dv, dpoles, channels, pairs, frequencies,
    SHARE: tl.constexpr, BLOCK: tl.constexpr, PAIRS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Parts of the gradients, of one share of the frequencies and one head."""
    tile, c, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(pairs, PAIRS)
    share, n = tile // blocks, tile % blocks * PAIRS + tl.arange(0, PAIRS)
    there, weight = n < pairs, v + ((head * channels + c) * pairs + n) * 2
    a = tl.load(weight, mask=there, other=0).to(SUMS)[:, None]
    b = tl.load(weight + 1, mask=there, other=0).to(SUMS)[:, None]
    da, db = tl.zeros([PAIRS, BLOCK], SUMS), tl.zeros([PAIRS, BLOCK], SUMS)
    dx, dy = tl.zeros([PAIRS, BLOCK], SUMS), tl.zeros([PAIRS, BLOCK], SUMS)
    for first in tl.range(0, SHARE, BLOCK):
        f = share * SHARE + first + tl.arange(0, BLOCK)
        live = f < frequencies
        sine, cosine = tl.load(sines + f, mask=live, other=1), tl.load(cosines + f, mask=live, other=1)
        place = ((head * channels + c) * frequencies + f) * 2
        gr = tl.load(dr + place, mask=live, other=0).to(SUMS)[None, :]
        gi = tl.load(dr + place + 1, mask=live, other=0).to(SUMS)[None, :]
        at = (c * pairs + n)[:, None]
        qr, qi, kr, ki = _resolvent(poles, at, there[:, None], sine[None, :], cosine[None, :], SUMS)
        da += gr * (qr + kr) + gi * (qi + ki)
        db += gi * (qr - kr) - gr * (qi - ki)
        slope = cosine.to(SUMS)[None, :]
        qr, qi = slope * (qr * qr - qi * qi), 2 * slope * qr * qi
        kr, ki = slope * (kr * kr - ki * ki), 2 * slope * kr * ki
        dx += gr * (a * (qr + kr) - b * (qi - ki)) + gi * (a * (qi + ki) + b * (qr - kr))
        dy += gi * (a * (qr - kr) - b * (qi + ki)) - gr * (a * (qi - ki) + b * (qr + kr))
    place = (((share * tl.num_programs(2) + head) * channels + c) * pairs + n) * 2
    tl.store(dv + place, tl.sum(da, 1), mask=there)
    tl.store(dv + place + 1, tl.sum(db, 1), mask=there)
    tl.store(dpoles + place, tl.sum(dx, 1), mask=there)
    tl.store(dpoles + place + 1, tl.sum(dy, 1), mask=there)


def vandermonde(residues: Tensor, log_poles: Tensor, length: int) -> Tensor:
    """k[l] = Re(sum_n residues_n exp(log_poles_n l))."""
    taps: Tensor = _vandermonde(to_parts(residues), to_parts(log_poles), length)
    return taps


def cauchy(v: Tensor, poles: Tensor, length: int) -> Tensor:
    """The resolvent at the roots of unity."""
    return to_numbers(_cauchy(to_parts(v), to_parts(poles), length))


def _types(x: Tensor) -> tuple[tl.dtype, str]:
    return TYPES[x.dtype], "ieee" if x.dtype == torch.float64 else "tf32x3"


def _nodes(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return half_angle_nodes(length, like.new_empty(0, dtype=torch.float64))


@operator("vandermonde_triton", taps_room)
def _vandermonde(residues: Tensor, log_poles: Tensor, length: int) -> Tensor:
    taps = taps_room(residues, log_poles, length)
    heads, channels, poles, parts = residues.shape
    if residues.numel() == 0:
        return taps.zero_()
    grid = (triton.cdiv(length, FINE * COARSE), channels, heads)
    with on_device(taps):
        _taps_kernel[grid](
            residues.contiguous(), log_poles.contiguous(), taps, channels, poles, length,
            parts, FINE, COARSE, POLES, *_types(taps), num_warps=8,
        )  # fmt: skip
    return taps


@operator("vandermonde_triton_backward", gradients_room)
def _vandermonde_backward(residues: Tensor, log_poles: Tensor, dtaps: Tensor) -> tuple[Tensor, Tensor]:
    heads, channels, poles, parts = residues.shape
    if residues.numel() == 0:
        return torch.zeros_like(residues), torch.zeros_like(log_poles)
    tiles = triton.cdiv(dtaps.shape[2], FINE * COARSE)
    dresidues, dpoles = residues.new_empty(2, tiles, *residues.shape)
    with on_device(dtaps):
        _poles_kernel[(tiles * triton.cdiv(poles, POLES_BACKWARDS), channels, heads)](
            residues.contiguous(), log_poles.contiguous(), dtaps.contiguous(), dresidues, dpoles, channels, poles,
            dtaps.shape[2], parts, FINE, COARSE, POLES_BACKWARDS, *_types(dtaps), num_warps=8,
        )  # fmt: skip
    return dresidues.sum(0), dpoles.sum((0, 1))


@operator("cauchy_triton", resolvents_room)
def _cauchy(v: Tensor, poles: Tensor, length: int) -> Tensor:
    r = resolvents_room(v, poles, length)
    heads, channels, pairs, _ = v.shape
    if v.numel() == 0:
        return r.zero_()
    frequencies = r.shape[2]
    with on_device(r):
        _resolvents_kernel[(triton.cdiv(frequencies, FREQUENCIES), channels, heads)](
            v.contiguous(), poles.contiguous(), *_nodes(length, v), r, channels, pairs, frequencies,
            FREQUENCIES, TYPES[v.dtype],
        )  # fmt: skip
    return r


@operator("cauchy_triton_backward", gradients_room)
def _cauchy_backward(v: Tensor, poles: Tensor, length: int, dr: Tensor) -> tuple[Tensor, Tensor]:
    heads, channels, pairs, _ = v.shape
    if v.numel() == 0:
        return torch.zeros_like(v), torch.zeros_like(poles)
    shares, block = triton.cdiv(dr.shape[2], SHARE), min(16, triton.next_power_of_2(pairs))
    dv, dpoles = v.new_empty(2, shares, *v.shape)
    with on_device(dr):
        _pairs_kernel[(shares * triton.cdiv(pairs, block), channels, heads)](
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
