"""Kernels of the long convolution whose transform one program holds, and of transposing layouts, compiled by Triton.

All but the last have a grid whose first axis counts blocks of LANES channels ("series": with an outer transform every
channel is R of them). A program loads the constant tables once and keeps them in shared memory and registers.
"""

from typing import no_type_check

import triton
import triton.language as tl

from .triton_transform import (
    imaginary_part,
    inverse_transform,
    load_block,
    load_matrix,
    load_table,
    real_part,
    set_apart,
    spectrum_tile,
    spoil,
    store_block,
    store_matrix,
    tile_mask,
    tile_offsets,
    transform,
)


@triton.jit
@no_type_check
def spectrum_kernel(
    h, h_im, spectrum, first, twiddle, second, step, channel, taps, channels, scale,
    N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Spectra (channels, 2, N1, K2) of filters, zero from ``taps`` on. Grid (blocks of channels,)."""
    f1r, f1i = load_table(first, N1, N1)
    f2r, f2i = load_table(second, N2, K2)
    at, valid = tile_offsets(step, channel, N1, N2, LANES), tile_mask(0, taps, channels, N1, N2, LANES)
    re, im = load_matrix(h, at, None, None, valid, ACC, f1r.dtype), None
    if h_im is not None:
        im = load_matrix(h_im, at, None, None, valid, ACC, f1r.dtype)
    re, im = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, ACC, PRECISION)
    place, exists = spectrum_tile(channels, N1, K2, LANES)
    # Scaled before rounding to half precision: a long filter's spectrum may exceed the range of float16.
    tl.store(spectrum + place, (re * scale).to(spectrum.dtype.element_ty), mask=exists)
    tl.store(spectrum + N1 * K2 + place, (im * scale).to(spectrum.dtype.element_ty), mask=exists)


@triton.jit
@no_type_check
def response_kernel(
    spectrum, h, h_im, first, twiddle, second, step, channel, taps, channels, scale,
    N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Back from spectra to impulse responses. Grid (blocks of channels,)."""
    f1r, f1i = load_table(first, N1, N1)
    f2r, f2i = load_table(second, N2, K2)
    place, exists = spectrum_tile(channels, N1, K2, LANES)
    re = tl.load(spectrum + place, mask=exists, other=0)
    im = tl.load(spectrum + N1 * K2 + place, mask=exists, other=0)
    gr, gi = inverse_transform(re, im, twiddle, f2r, f2i, N1, N2, LANES, ACC, PRECISION)
    at, valid = tile_offsets(step, channel, N1, N2, LANES), tile_mask(0, taps, channels, N1, N2, LANES)
    y = real_part(gr, gi, f1r, f1i, ACC, PRECISION) * scale
    store_matrix(h, at, None, None, y, valid, ACC)
    if h_im is not None:
        y = imaginary_part(gr, gi, f1r, f1i, ACC, PRECISION) * scale
        store_matrix(h_im, at, None, None, y, valid, ACC)


@triton.jit
@no_type_check
def convolve_kernel(
    x, spectrum, out, first, twiddle, second,
    batch, items, parts, length, channels, block, shift, scale,
    ADJOINT: tl.constexpr, ISOLATE: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = gate conv(x)``, and the other output with another gate; the adjoint takes conjugate spectra.

    Grid (blocks of channels, parts). Every block of every row is an item, and a program takes every ``parts``-th item
    of its channels: it loads their spectra and the tables once, and the next item's signal while it transforms one. An
    item reads the positions from ``index * block - shift`` on and writes those of its steps in [shift, shift + block):
    overlap-save, where the first ``shift`` outputs of a transform are wrapped around and belong to the block before.
    With ISOLATE inputs that are not finite make the outputs of the block from them on NaN, and no earlier ones.
    """
    n = tl.arange(0, N1)[:, None, None] * N2 + tl.arange(0, N2)[None, None, :]
    f1r, f1i = load_table(first, N1, N1)
    f2r, f2i = load_table(second, N2, K2)
    place, exists = spectrum_tile(channels, N1, K2, LANES)
    for item in tl.range(tl.program_id(1), items, parts):
        # Items count rows fastest: the same block of all rows, then the next block.
        row, start = (item % batch).to(tl.int64), (item // batch) * block - shift
        low, high = x.first - start, length - start
        re = load_block(x, x.re, x.gate, row, start, low, high, channels, N1, N2, LANES, ACC, f1r.dtype)
        im = None
        if x.im is not None:
            im = load_block(x, x.im, None, row, start, low, high, channels, N1, N2, LANES, ACC, f1r.dtype)
        if ISOLATE:
            re, first_bad = set_apart(re, n, N1 * N2, LANES)
        re, im = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, ACC, PRECISION)
        # Loaded here rather than kept: as registers they would not fit next to the transform.
        kr = tl.load(spectrum + place, mask=exists, other=0).to(ACC)
        ki = tl.load(spectrum + N1 * K2 + place, mask=exists, other=0).to(ACC)
        if ADJOINT:
            ki = -ki
        # The convolution: one complex product per frequency, by the conjugate for the adjoint.
        zr, zi = re * kr - im * ki, re * ki + im * kr
        gr, gi = inverse_transform(zr, zi, twiddle, f2r, f2i, N1, N2, LANES, ACC, PRECISION)
        low, high = tl.maximum(out.first - start, shift), tl.minimum(length - start, shift + block)
        y = real_part(gr, gi, f1r, f1i, ACC, PRECISION) * scale
        if ISOLATE:
            y = spoil(y, n, first_bad)
        store_block(out, out.re, out.gate, row, start, low, high, channels, y, N1, N2, LANES, ACC)
        if out.other is not None:
            store_block(out, out.other, out.other_gate, row, start, low, high, channels, y, N1, N2, LANES, ACC)
        if out.im is not None:
            y = imaginary_part(gr, gi, f1r, f1i, ACC, PRECISION) * scale
            store_block(out, out.im, None, row, start, low, high, channels, y, N1, N2, LANES, ACC)


@triton.jit
@no_type_check
def correlate_kernel(
    x, g, sums, first, twiddle, second,
    batch, items, parts, length, channels, block, shift,
    IN_REGISTERS: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Spectra of the gradient of the filter, ``conj(X) G`` summed over each part of the items.

    Grid (blocks of channels, parts); items as in :func:`convolve_kernel`. A program transforms x and g of an item and
    adds to its sums (N1 LANES, K2), which are in registers if IN_REGISTERS, else in memory, where the threads of one
    program see each other's after a barrier. No two programs add to the same sums, so the order is always the same.
    """
    f1r, f1i = load_table(first, N1, N1)
    f2r, f2i = load_table(second, N2, K2)
    place, exists = spectrum_tile(channels, N1, K2, LANES)
    sums += tl.program_id(1).to(tl.int64) * channels * (2 * N1 * K2)
    sr, si = tl.zeros([N1 * LANES, K2], ACC), tl.zeros([N1 * LANES, K2], ACC)
    if not IN_REGISTERS:
        tl.store(sums + place, sr, mask=exists)
        tl.store(sums + N1 * K2 + place, si, mask=exists)
        tl.debug_barrier()
    for item in tl.range(tl.program_id(1), items, parts):
        row, start = (item % batch).to(tl.int64), (item // batch) * block - shift
        low, high = x.first - start, length - start
        re = load_block(x, x.re, x.gate, row, start, low, high, channels, N1, N2, LANES, ACC, f1r.dtype)
        im = None
        if x.im is not None:
            im = load_block(x, x.im, None, row, start, low, high, channels, N1, N2, LANES, ACC, f1r.dtype)
        xr, xi = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, ACC, PRECISION)
        # X waits in the operands' dtype while g is transformed: half the registers.
        xr, xi = xr.to(f1r.dtype), xi.to(f1r.dtype)
        # Only outputs that this block writes count, so the overlap of g is masked out.
        low = tl.maximum(g.first - start, shift)
        re = load_block(g, g.re, g.gate, row, start, low, high, channels, N1, N2, LANES, ACC, f1r.dtype)
        im = None
        if g.im is not None:
            im = load_block(g, g.im, None, row, start, low, high, channels, N1, N2, LANES, ACC, f1r.dtype)
        gr, gi = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, ACC, PRECISION)
        xr, xi = xr.to(ACC), xi.to(ACC)
        if not IN_REGISTERS:
            sr = tl.load(sums + place, mask=exists, other=0)
            si = tl.load(sums + N1 * K2 + place, mask=exists, other=0)
        # conj(X) G: correlation with the signal is the gradient of the taps.
        sr += xr * gr + xi * gi
        si += xr * gi - xi * gr
        if not IN_REGISTERS:
            tl.store(sums + place, sr, mask=exists)
            tl.store(sums + N1 * K2 + place, si, mask=exists)
            tl.debug_barrier()
    if IN_REGISTERS:
        tl.store(sums + place, sr, mask=exists)
        tl.store(sums + N1 * K2 + place, si, mask=exists)


@triton.jit
@no_type_check
def transpose_kernel(
    x, out, length, channels, STEPS: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """``out = gate x`` from one layout to another, and the other output with another gate.

    Grid (blocks of steps, blocks of channels, batch). A program owns a square of STEPS x LANES: it reads whole lines of
    one layout and writes whole lines of the other, and shared memory turns the square in between.
    """
    row = tl.program_id(2).to(tl.int64)
    t = (tl.program_id(0) * STEPS + tl.arange(0, STEPS)).to(tl.int64)[:, None]
    c = (tl.program_id(1) * LANES + tl.arange(0, LANES)).to(tl.int64)[None, :]
    valid = (t < length) & (c < channels)
    at = row * out.row + t * out.step + c * out.channel
    value = tl.load(x.re + row * x.row + t * x.step + c * x.channel, mask=valid, other=0).to(ACC)
    gated = value
    if x.gate is not None:
        gate_at = row * x.gate_row + t * x.gate_step + c * x.gate_channel
        gated *= tl.load(x.gate + gate_at, mask=valid, other=0).to(ACC)
    tl.store(out.re + at, gated.to(out.re.dtype.element_ty), mask=valid)
    if out.other is not None:
        gate_at = row * out.gate_row + t * out.gate_step + c * out.gate_channel
        gated = value * tl.load(out.other_gate + gate_at, mask=valid, other=0).to(ACC)
        tl.store(out.other + at, gated.to(out.other.dtype.element_ty), mask=valid)
