"""Kernels in Triton of the Vandermonde and Cauchy products, see :mod:`.triton` for the equations.

A complex number is PARTS = 2 neighbouring real ones in memory and two tensors in registers: names end in r and i.
"""

from typing import no_type_check

import triton
import triton.language as tl

TWO_PI: tl.constexpr = tl.constexpr(6.283185307179586)
TURNS_PER_RADIAN: tl.constexpr = tl.constexpr(0.15915494309189535)


@triton.jit
@no_type_check
def _powers(log_poles, at, valid, lags, PARTS: tl.constexpr, ACC: tl.constexpr):
    """``z^lags`` of the poles ``at``, both broadcast, real and imaginary part (the real one twice if PARTS is 1)."""
    rate = tl.load(log_poles + at * PARTS, mask=valid, other=0).to(tl.float64)
    size = tl.exp((rate * lags).to(ACC))
    re, im = size, size
    if PARTS == 2:
        # In turns, whose integer part is dropped in float64: float32 holds no phase of a million radians.
        turns = tl.load(log_poles + at * PARTS + 1, mask=valid, other=0).to(tl.float64) * lags * TURNS_PER_RADIAN
        angle = ((turns - tl.floor(turns + 0.5)) * TWO_PI).to(ACC)
        re, im = size * tl.cos(angle), size * tl.sin(angle)
    return re, im


@triton.jit
@no_type_check
def taps_kernel(
    residues, log_poles, taps, channels, poles, length,
    PARTS: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr, POLES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of taps (COARSE, FINE) of one head and channel.

    Grid (tiles, channels, heads). A program streams residues and poles, POLES at a time, computes both matrices of
    powers in registers and accumulates their product, real part only: two real products on the matrix units.
    """
    c, head = tl.program_id(1), tl.program_id(2)
    i, j, start = tl.arange(0, COARSE), tl.arange(0, FINE), tl.program_id(0).to(tl.int64) * (FINE * COARSE)
    acc = tl.zeros([COARSE, FINE], ACC)
    for first in tl.range(0, poles, POLES):
        n = first + tl.arange(0, POLES)
        at, valid = c.to(tl.int64) * poles + n, n < poles
        cr, ci = _powers(log_poles, at[None, :], valid[None, :], (start + FINE * i)[:, None], PARTS, ACC)
        fr, fi = _powers(log_poles, at[:, None], valid[:, None], j[None, :], PARTS, ACC)
        weights = residues + (head.to(tl.int64) * channels * poles + at) * PARTS
        wr = tl.load(weights, mask=valid, other=0).to(ACC)[None, :]
        if PARTS == 2:
            wi = tl.load(weights + 1, mask=valid, other=0).to(ACC)[None, :]
            # Re((w c) f) = Re(w c) Re(f) - Im(w c) Im(f).
            cr, ci = wr * cr - wi * ci, wr * ci + wi * cr
            acc = tl.dot(-ci, fi, acc, input_precision=PRECISION, out_dtype=ACC)
        else:
            cr *= wr
        acc = tl.dot(cr, fr, acc, input_precision=PRECISION, out_dtype=ACC)
    lag = start + FINE * i[:, None] + j[None, :]
    taps += (head.to(tl.int64) * channels + c) * length
    tl.store(taps + lag, acc.to(taps.dtype.element_ty), mask=lag < length)


@triton.jit
@no_type_check
def poles_kernel(
    residues, log_poles, dtaps, dresidues, dpoles, channels, poles, length,
    PARTS: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr, POLES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Parts of the gradients of one tile of lags, one head and POLES poles.

    Grid (tiles * blocks of poles, channels, heads). A program loads its tile of dtaps once, (COARSE, FINE), multiplies
    it with the fine powers on the matrix units, (COARSE, POLES), and sums with the coarse powers over COARSE. The lag
    in ``sum_l l dk_l z^l`` splits into its coarse part, a factor after the product, and its fine part, one before it.
    """
    tile, c, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(poles, POLES)
    start, n = tile // blocks * (FINE * COARSE), tile % blocks * POLES + tl.arange(0, POLES)
    i, j = tl.arange(0, COARSE), tl.arange(0, FINE)
    at, valid = c * poles + n, n < poles
    coarse_lags, row = start + FINE * i, (head * channels + c) * length
    lag = coarse_lags[:, None] + j[None, :]
    g = tl.load(dtaps + row + lag, mask=lag < length, other=0).to(ACC)
    cr, ci = _powers(log_poles, at[None, :], valid[None, :], coarse_lags[:, None], PARTS, ACC)
    fr, fi = _powers(log_poles, at[None, :], valid[None, :], j[:, None], PARTS, ACC)
    fine_g, coarse = g * j[None, :].to(ACC), coarse_lags[:, None].to(ACC)
    # s = sum_j dk z^j and t = sum_j l dk z^j, for every coarse lag i and pole n.
    sr = tl.dot(g, fr, input_precision=PRECISION, out_dtype=ACC)
    tr = coarse * sr + tl.dot(fine_g, fr, input_precision=PRECISION, out_dtype=ACC)
    place = (((tile // blocks) * tl.num_programs(2) + head) * channels + c) * poles + n
    weights = residues + ((head * channels + c) * poles + n) * PARTS
    wr = tl.load(weights, mask=valid, other=0).to(ACC)
    if PARTS == 2:
        si = tl.dot(g, fi, input_precision=PRECISION, out_dtype=ACC)
        ti = coarse * si + tl.dot(fine_g, fi, input_precision=PRECISION, out_dtype=ACC)
        slope_r, slope_i = tl.sum(cr * tr - ci * ti, 0), tl.sum(cr * ti + ci * tr, 0)
        wi = tl.load(weights + 1, mask=valid, other=0).to(ACC)
        # PyTorch's gradients of complex tensors are conjugates, hence the signs of the imaginary parts.
        tl.store(dresidues + place * 2, tl.sum(cr * sr - ci * si, 0), mask=valid)
        tl.store(dresidues + place * 2 + 1, -tl.sum(cr * si + ci * sr, 0), mask=valid)
        tl.store(dpoles + place * 2, wr * slope_r - wi * slope_i, mask=valid)
        tl.store(dpoles + place * 2 + 1, -(wr * slope_i + wi * slope_r), mask=valid)
    else:
        tl.store(dresidues + place, tl.sum(cr * sr, 0), mask=valid)
        tl.store(dpoles + place, wr * tl.sum(cr * tr, 0), mask=valid)


@triton.jit
@no_type_check
def _resolvent(poles, at, valid, sine, cosine, ACC: tl.constexpr):
    """The real and imaginary parts of q and q' of the poles ``at``."""
    # The imaginary parts of 1/q and 1/q' cancel near a resonance: in float64, then rounded once.
    pr = tl.load(poles + at * 2, mask=valid, other=1).to(tl.float64)
    pi = tl.load(poles + at * 2 + 1, mask=valid, other=0).to(tl.float64)
    x = (-cosine * pr).to(ACC)
    y, conjugate = (2 * sine - cosine * pi).to(ACC), (2 * sine + cosine * pi).to(ACC)
    size, other = 1 / (x * x + y * y), 1 / (x * x + conjugate * conjugate)
    return x * size, -y * size, x * other, -conjugate * other


@triton.jit
@no_type_check
def resolvents_kernel(
    v, poles, sines, cosines, r, channels, pairs, frequencies, BLOCK: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """BLOCK values of the resolvent of one head and channel.

    Grid (blocks of frequencies, channels, heads). A thread owns a frequency, streams all pairs and accumulates in
    registers; ``v`` and ``poles`` are the same for all threads of a program, so they come from the cache.
    """
    c, head = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    f = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = f < frequencies
    sine, cosine = tl.load(sines + f, mask=valid, other=1), tl.load(cosines + f, mask=valid, other=1)
    re, im = tl.zeros([BLOCK], ACC), tl.zeros([BLOCK], ACC)
    for n in tl.range(pairs):
        qr, qi, kr, ki = _resolvent(poles, c * pairs + n, n < pairs, sine, cosine, ACC)
        weight = v + ((head * channels + c) * pairs + n) * 2
        a, b = tl.load(weight).to(ACC), tl.load(weight + 1).to(ACC)
        re += a * (qr + kr) - b * (qi - ki)
        im += a * (qi + ki) + b * (qr - kr)
    place = ((head * channels + c) * frequencies + f) * 2
    tl.store(r + place, re, mask=valid)
    tl.store(r + place + 1, im, mask=valid)


@triton.jit
@no_type_check
def pairs_kernel(
    v, poles, sines, cosines, dr, dv, dpoles, channels, pairs, frequencies,
    SHARE: tl.constexpr, BLOCK: tl.constexpr, PAIRS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Parts of the gradients of one share of the frequencies, one head and PAIRS pairs of poles.

    Grid (shares * blocks of pairs, channels, heads). A program streams sines, cosines and ``dr``, BLOCK frequencies at
    a time, and accumulates (PAIRS, BLOCK) in registers: one sum over the frequencies at the end, not one per block.
    """
    tile, c, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    blocks = tl.cdiv(pairs, PAIRS)
    share, n = tile // blocks, tile % blocks * PAIRS + tl.arange(0, PAIRS)
    exists, weight = n < pairs, v + ((head * channels + c) * pairs + n) * 2
    a = tl.load(weight, mask=exists, other=0).to(ACC)[:, None]
    b = tl.load(weight + 1, mask=exists, other=0).to(ACC)[:, None]
    da, db = tl.zeros([PAIRS, BLOCK], ACC), tl.zeros([PAIRS, BLOCK], ACC)
    dx, dy = tl.zeros([PAIRS, BLOCK], ACC), tl.zeros([PAIRS, BLOCK], ACC)
    for first in tl.range(0, SHARE, BLOCK):
        f = share * SHARE + first + tl.arange(0, BLOCK)
        valid = f < frequencies
        sine, cosine = tl.load(sines + f, mask=valid, other=1), tl.load(cosines + f, mask=valid, other=1)
        place = ((head * channels + c) * frequencies + f) * 2
        gr = tl.load(dr + place, mask=valid, other=0).to(ACC)[None, :]
        gi = tl.load(dr + place + 1, mask=valid, other=0).to(ACC)[None, :]
        at = (c * pairs + n)[:, None]
        qr, qi, kr, ki = _resolvent(poles, at, exists[:, None], sine[None, :], cosine[None, :], ACC)
        da += gr * (qr + kr) + gi * (qi + ki)
        db += gi * (qr - kr) - gr * (qi - ki)
        # dq/dpole = c q^2, and the same for q'.
        slope = cosine.to(ACC)[None, :]
        qr, qi = slope * (qr * qr - qi * qi), 2 * slope * qr * qi
        kr, ki = slope * (kr * kr - ki * ki), 2 * slope * kr * ki
        dx += gr * (a * (qr + kr) - b * (qi - ki)) + gi * (a * (qi + ki) + b * (qr - kr))
        dy += gi * (a * (qr - kr) - b * (qi + ki)) - gr * (a * (qi - ki) + b * (qr + kr))
    place = (((share * tl.num_programs(2) + head) * channels + c) * pairs + n) * 2
    tl.store(dv + place, tl.sum(da, 1), mask=exists)
    tl.store(dv + place + 1, tl.sum(db, 1), mask=exists)
    tl.store(dpoles + place, tl.sum(dx, 1), mask=exists)
    tl.store(dpoles + place + 1, tl.sum(dy, 1), mask=exists)
