"""The outer transform of a long convolution whose points one program cannot hold, compiled by Triton.

Over n1 of ``n = n1 inner + n2`` it is a product with an R x R matrix, columns n2 and channels side by side; in ROWS
of the matrix at a time.
"""

from typing import no_type_check

import triton
import triton.language as tl

from .triton_transform import add_dot, load, store


@triton.jit
@no_type_check
def _outer_twiddle(coarse, fine, k1, block, blocks, R: tl.constexpr, BLOCK: tl.constexpr, SUMS: tl.constexpr):
    """(len(k1), BLOCK) of the block of columns."""
    near = k1[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    cr, ci = tl.load(coarse + k1 * blocks + block).to(SUMS), tl.load(coarse + (R + k1) * blocks + block).to(SUMS)
    fr, fi = tl.load(fine + near).to(SUMS), tl.load(fine + R * BLOCK + near).to(SUMS)
    return cr[:, None] * fr - ci[:, None] * fi, cr[:, None] * fi + ci[:, None] * fr


@triton.jit
@no_type_check
def outer_kernel(
    x, gate, mid, first, coarse, fine,
    x_row, x_step, x_channel, x_first, gate_row, gate_step, gate_channel, plane, length, channels, inner,
    R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Transform over n1 of ``n = n1 inner + n2`` into ``mid`` (2, batch, channels, R, inner)."""
    block, row, blocks = tl.program_id(0), tl.program_id(2).to(tl.int64), inner // BLOCK
    chunk, lane = tl.program_id(1) % (R // ROWS) * ROWS, tl.program_id(1) // (R // ROWS) * LANES
    k1, i = chunk + tl.arange(0, ROWS), tl.arange(0, ROWS)
    n2, c = block * BLOCK + tl.arange(0, BLOCK)[None, :, None], lane + tl.arange(0, LANES)[None, None, :]
    ar, ai = tl.zeros([ROWS, LANES * BLOCK], SUMS), tl.zeros([ROWS, LANES * BLOCK], SUMS)
    for n1 in tl.range(0, R, ROWS):
        n = (n1 + i).to(tl.int64)[:, None, None] * inner + n2
        at = row * x_row + (n - x_first) * x_step + c.to(tl.int64) * x_channel
        live = (n >= x_first) & (n < length) & (c < channels)
        fr = tl.load(first + k1[:, None] * R + (n1 + i)[None, :])
        fi = tl.load(first + R * R + k1[:, None] * R + (n1 + i)[None, :])
        beside = row * gate_row + (n - x_first) * gate_step + c.to(tl.int64) * gate_channel
        re = load(x, at, gate, beside, live, SUMS, fr.dtype)
        ar, ai = add_dot(ar, fr, re, SUMS, PRECISION), add_dot(ai, fi, re, SUMS, PRECISION)
    ar, ai = tl.reshape(ar, (ROWS, LANES, BLOCK)), tl.reshape(ai, (ROWS, LANES, BLOCK))
    tr, ti = _outer_twiddle(coarse, fine, k1, block, blocks, R, BLOCK, SUMS)
    tr, ti = tr[:, None, :], ti[:, None, :]
    c = lane + tl.arange(0, LANES)[None, :, None]
    at = ((row * channels + c) * R + k1[:, None, None]) * inner + block * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    live = (c < channels) & (k1 < R)[:, None, None]
    tl.store(mid + at, (ar * tr - ai * ti).to(mid.dtype.element_ty), mask=live)
    tl.store(mid + plane + at, (ar * ti + ai * tr).to(mid.dtype.element_ty), mask=live)


@triton.jit
@no_type_check
def outer_inverse_kernel(
    mid, out, gate, out2, out2_gate, first, coarse, fine,
    out_row, out_step, out_channel, out_first, gate_row, gate_step, gate_channel, plane, length, channels, inner, scale,
    R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
    SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Back from ``mid`` to a real signal, times its gates."""
    block, row, blocks = tl.program_id(0), tl.program_id(2).to(tl.int64), inner // BLOCK
    chunk, lane = tl.program_id(1) % (R // ROWS) * ROWS, tl.program_id(1) // (R // ROWS) * LANES
    i, c = tl.arange(0, ROWS), lane + tl.arange(0, LANES)[None, :, None]
    y = tl.zeros([ROWS, LANES * BLOCK], SUMS)
    for start in tl.range(0, R, ROWS):
        k1 = start + i
        at = ((row * channels + c) * R + k1[:, None, None]) * inner + block * BLOCK + tl.arange(0, BLOCK)[None, None, :]
        live = (c < channels) & (k1 < R)[:, None, None]
        er, ei = tl.load(mid + at, mask=live, other=0).to(SUMS), tl.load(mid + plane + at, mask=live, other=0).to(SUMS)
        tr, ti = _outer_twiddle(coarse, fine, k1, block, blocks, R, BLOCK, SUMS)
        tr, ti = tr[:, None, :], ti[:, None, :]
        turned = k1[None, :] * R + (chunk + i)[:, None]
        fr, fi = tl.load(first + turned), tl.load(first + R * R + turned)
        y = add_dot(y, fr, tl.reshape(er * tr + ei * ti, (ROWS, LANES * BLOCK)).to(fr.dtype), SUMS, PRECISION)
        y = add_dot(y, fi, tl.reshape(ei * tr - er * ti, (ROWS, LANES * BLOCK)).to(fr.dtype), SUMS, PRECISION)
    n = (chunk + i).to(tl.int64)[:, None, None] * inner + block * BLOCK + tl.arange(0, BLOCK)[None, :, None]
    c = lane + tl.arange(0, LANES)[None, None, :]
    at = row * out_row + (n - out_first) * out_step + c.to(tl.int64) * out_channel
    live = (n >= out_first) & (n < length) & (c < channels)
    beside = row * gate_row + (n - out_first) * gate_step + c.to(tl.int64) * gate_channel
    store(out, at, gate, beside, y * scale, live, SUMS)
    if out2 is not None:
        store(out2, at, out2_gate, beside, y * scale, live, SUMS)
