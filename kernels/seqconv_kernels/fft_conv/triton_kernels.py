"""Kernels of the long convolution whose transform one program holds, and of turning layouts, compiled by Triton."""

from typing import no_type_check

import triton
import triton.language as tl

from .triton_transform import (
    exists,
    imaginary_part,
    load,
    load_parts,
    offsets,
    read,
    real_part,
    spectral,
    store,
    transform,
    untransform,
)


@triton.jit
@no_type_check
def spectrum_kernel(
    h, h_im, spectrum, first, twiddle, second, step, channel, taps, channels, scale,
    N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Spectra of filters."""
    f1r, f1i = load_parts(first, N1, N1)
    f2r, f2i = load_parts(second, N2, K2)
    at, live = offsets(step, channel, N1, N2, LANES), exists(0, taps, channels, N1, N2, LANES)
    re, im = load(h, at, None, None, live, SUMS, f1r.dtype), None
    if h_im is not None:
        im = load(h_im, at, None, None, live, SUMS, f1r.dtype)
    re, im = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, SUMS, PRECISION)
    place, there = spectral(channels, N1, K2, LANES)
    tl.store(spectrum + place, (re * scale).to(spectrum.dtype.element_ty), mask=there)
    tl.store(spectrum + N1 * K2 + place, (im * scale).to(spectrum.dtype.element_ty), mask=there)


@triton.jit
@no_type_check
def response_kernel(
    spectrum, h, h_im, first, twiddle, second, step, channel, taps, channels, scale,
    N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Back from spectra to impulse responses."""
    f1r, f1i = load_parts(first, N1, N1)
    f2r, f2i = load_parts(second, N2, K2)
    place, there = spectral(channels, N1, K2, LANES)
    re = tl.load(spectrum + place, mask=there, other=0)
    im = tl.load(spectrum + N1 * K2 + place, mask=there, other=0)
    gr, gi = untransform(re, im, twiddle, f2r, f2i, N1, N2, LANES, SUMS, PRECISION)
    at, live = offsets(step, channel, N1, N2, LANES), exists(0, taps, channels, N1, N2, LANES)
    y = real_part(gr, gi, f1r, f1i, SUMS, PRECISION) * scale
    store(h, at, None, None, y, live, SUMS)
    if h_im is not None:
        y = imaginary_part(gr, gi, f1r, f1i, SUMS, PRECISION) * scale
        store(h_im, at, None, None, y, live, SUMS)


@triton.jit
@no_type_check
def convolve_kernel(
    x, x_im, x_gate, spectrum, out, out_im, out_gate, out2, out2_gate, first, twiddle, second,
    x_row, x_step, x_channel, x_first, x_gate_row, x_gate_step, x_gate_channel,
    out_row, out_step, out_channel, out_first, out_gate_row, out_gate_step, out_gate_channel,
    batch, items, parts, length, channels, block, shift, scale,
    ADJOINT: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out = out_gate conv(x_gate x)``, and ``out2`` with another gate; the adjoint takes conjugate spectra.

    Every block of every row is an item. It reads the positions from ``index * block - shift`` on and writes those
    of its steps in ``[shift, shift + block)``; ``x`` begins at the position ``x_first``, ``out`` at ``out_first``.
    """
    f1r, f1i = load_parts(first, N1, N1)
    f2r, f2i = load_parts(second, N2, K2)
    place, there = spectral(channels, N1, K2, LANES)
    for item in tl.range(tl.program_id(1), items, parts):
        row, start = (item % batch).to(tl.int64), (item // batch) * block - shift
        strides = (x_row, x_step, x_channel)
        gate_strides = (x_gate_row, x_gate_step, x_gate_channel)
        low, high = x_first - start, length - start
        re, im = (
            read(
                x,
                x_gate,
                strides,
                gate_strides,
                row,
                start,
                x_first,
                low,
                high,
                channels,
                N1,
                N2,
                LANES,
                SUMS,
                f1r.dtype,
            ),
            None,
        )
        if x_im is not None:
            im = read(
                x_im, None, strides, strides, row, start, x_first, low, high, channels, N1, N2, LANES, SUMS, f1r.dtype
            )
        re, im = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, SUMS, PRECISION)
        kr = tl.load(spectrum + place, mask=there, other=0).to(SUMS)
        ki = tl.load(spectrum + N1 * K2 + place, mask=there, other=0).to(SUMS)
        if ADJOINT:
            ki = -ki
        gr, gi = untransform(
            re * kr - im * ki, re * ki + im * kr, twiddle, f2r, f2i, N1, N2, LANES, SUMS, PRECISION
        )  # fmt: skip
        low, high = tl.maximum(out_first - start, shift), tl.minimum(length - start, shift + block)
        live, behind = exists(low, high, channels, N1, N2, LANES), (start - out_first).to(tl.int64)
        at, begin = offsets(out_step, out_channel, N1, N2, LANES), row * out_row + behind * out_step
        beside = offsets(out_gate_step, out_gate_channel, N1, N2, LANES)
        beside += row * out_gate_row + behind * out_gate_step
        y = real_part(gr, gi, f1r, f1i, SUMS, PRECISION) * scale
        store(out + begin, at, out_gate, beside, y, live, SUMS)
        if out2 is not None:
            store(out2 + begin, at, out2_gate, beside, y, live, SUMS)
        if out_im is not None:
            y = imaginary_part(gr, gi, f1r, f1i, SUMS, PRECISION) * scale
            store(out_im + begin, at, None, None, y, live, SUMS)


@triton.jit
@no_type_check
def correlate_kernel(
    x, x_im, x_gate, g, g_im, g_gate, sums, first, twiddle, second,
    x_row, x_step, x_channel, x_first, x_gate_row, x_gate_step, x_gate_channel,
    g_row, g_step, g_channel, g_first, g_gate_row, g_gate_step, g_gate_channel,
    batch, items, parts, length, channels, block, shift,
    HELD: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Spectra of the gradient of the filter, one sum for each part of the items: ``conj(X) G``.

    The sums stand in registers if HELD, else in memory, where the threads of one program see them after a barrier.
    """
    f1r, f1i = load_parts(first, N1, N1)
    f2r, f2i = load_parts(second, N2, K2)
    place, there = spectral(channels, N1, K2, LANES)
    sums += tl.program_id(1).to(tl.int64) * channels * (2 * N1 * K2)
    sr, si = tl.zeros([N1 * LANES, K2], SUMS), tl.zeros([N1 * LANES, K2], SUMS)
    if not HELD:
        tl.store(sums + place, sr, mask=there)
        tl.store(sums + N1 * K2 + place, si, mask=there)
        tl.debug_barrier()
    for item in tl.range(tl.program_id(1), items, parts):
        row, start = (item % batch).to(tl.int64), (item // batch) * block - shift
        strides = (x_row, x_step, x_channel)
        gate_strides = (x_gate_row, x_gate_step, x_gate_channel)
        low, high = x_first - start, length - start
        re, im = (
            read(
                x,
                x_gate,
                strides,
                gate_strides,
                row,
                start,
                x_first,
                low,
                high,
                channels,
                N1,
                N2,
                LANES,
                SUMS,
                f1r.dtype,
            ),
            None,
        )
        if x_im is not None:
            im = read(
                x_im, None, strides, strides, row, start, x_first, low, high, channels, N1, N2, LANES, SUMS, f1r.dtype
            )
        vr, vi = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, SUMS, PRECISION)
        vr, vi = vr.to(f1r.dtype), vi.to(f1r.dtype)
        strides = (g_row, g_step, g_channel)
        gate_strides = (g_gate_row, g_gate_step, g_gate_channel)
        low, high = tl.maximum(g_first - start, shift), length - start
        re, im = (
            read(
                g,
                g_gate,
                strides,
                gate_strides,
                row,
                start,
                g_first,
                low,
                high,
                channels,
                N1,
                N2,
                LANES,
                SUMS,
                f1r.dtype,
            ),
            None,
        )
        if g_im is not None:
            im = read(
                g_im, None, strides, strides, row, start, g_first, low, high, channels, N1, N2, LANES, SUMS, f1r.dtype
            )
        re, im = transform(re, im, f1r, f1i, twiddle, f2r, f2i, N1, N2, LANES, SUMS, PRECISION)
        vr, vi = vr.to(SUMS), vi.to(SUMS)
        if not HELD:
            sr = tl.load(sums + place, mask=there, other=0)
            si = tl.load(sums + N1 * K2 + place, mask=there, other=0)
        sr += vr * re + vi * im
        si += vr * im - vi * re
        if not HELD:
            tl.store(sums + place, sr, mask=there)
            tl.store(sums + N1 * K2 + place, si, mask=there)
            tl.debug_barrier()
    if HELD:
        tl.store(sums + place, sr, mask=there)
        tl.store(sums + N1 * K2 + place, si, mask=there)


@triton.jit
@no_type_check
def turn_kernel(
    x, gate, out, gate2, out2,
    x_row, x_step, x_channel, gate_row, gate_step, gate_channel, out_row, out_step, out_channel, length, channels,
    STEPS: tl.constexpr, LANES: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """``out = gate x`` from one layout to another, and ``out2`` with another gate."""
    row = tl.program_id(2).to(tl.int64)
    t = (tl.program_id(0) * STEPS + tl.arange(0, STEPS)).to(tl.int64)[:, None]
    c = (tl.program_id(1) * LANES + tl.arange(0, LANES)).to(tl.int64)[None, :]
    live = (t < length) & (c < channels)
    at, beside = row * out_row + t * out_step + c * out_channel, row * gate_row + t * gate_step + c * gate_channel
    value = tl.load(x + row * x_row + t * x_step + c * x_channel, mask=live, other=0).to(SUMS)
    gated = value
    if gate is not None:
        gated *= tl.load(gate + beside, mask=live, other=0).to(SUMS)
    tl.store(out + at, gated.to(out.dtype.element_ty), mask=live)
    if out2 is not None:
        gated = value * tl.load(gate2 + beside, mask=live, other=0).to(SUMS)
        tl.store(out2 + at, gated.to(out2.dtype.element_ty), mask=live)
