"""The outer transform of a long convolution whose points one program cannot hold, compiled by Triton.

A transform of R inner points is one over n1 of ``n = n1 inner + n2`` (here), then R transforms of ``inner`` points, one
for each k1 (:mod:`.triton_kernels`, as complex signals). Over n1 it is a product with an R x R matrix, columns n2 and
channels side by side; in ROWS rows of the matrix at a time. It moves 16 bytes per point more than a transform in one
program, as complex half precision out and back in.

Its twiddle ``W^(n2 k1)`` has R inner entries, too many for a table: it is the product of a coarse one per block of
columns and a fine one within the block.
"""

from typing import no_type_check

import triton
import triton.language as tl

from .triton_transform import add_dot, load_matrix, set_apart, spoil, store_matrix


@triton.jit
@no_type_check
def _outer_twiddle(coarse, fine, k1, block, blocks, R: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """(len(k1), BLOCK) of a block of columns."""
    column = k1[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    # W^(n2 k1) with n2 = block BLOCK + j: W^(block BLOCK k1), one per row, times W^(j k1), a small table.
    cr, ci = tl.load(coarse + k1 * blocks + block).to(ACC), tl.load(coarse + (R + k1) * blocks + block).to(ACC)
    fr, fi = tl.load(fine + column).to(ACC), tl.load(fine + R * BLOCK + column).to(ACC)
    return cr[:, None] * fr - ci[:, None] * fi, cr[:, None] * fi + ci[:, None] * fr


@triton.jit
@no_type_check
def outer_kernel(
    x, mid, first_bad, first, coarse, fine, plane, length, channels, inner,
    R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Transform over n1 of ``n = n1 inner + n2`` into ``mid`` (2, batch, channels, R, inner).

    Grid (blocks of columns, blocks of channels * blocks of rows, batch). A program owns ROWS of the frequencies k1 for
    BLOCK columns of LANES channels, (ROWS, LANES BLOCK); it streams all n1 of these columns, ROWS at a time.
    ``first_bad`` (batch, channels), if given, becomes the least step that is not finite, where that is less.
    """
    # The second axis of the grid counts blocks of rows fastest: programs that read the same columns run together
    # and find them in the cache.
    block, row, blocks = tl.program_id(0), tl.program_id(2).to(tl.int64), inner // BLOCK
    rows, lane = tl.program_id(1) % (R // ROWS) * ROWS, tl.program_id(1) // (R // ROWS) * LANES
    k1, i = rows + tl.arange(0, ROWS), tl.arange(0, ROWS)
    n2, c = block * BLOCK + tl.arange(0, BLOCK)[None, :, None], lane + tl.arange(0, LANES)[None, None, :]
    ar, ai = tl.zeros([ROWS, LANES * BLOCK], ACC), tl.zeros([ROWS, LANES * BLOCK], ACC)
    bad = tl.full([LANES], length, tl.int32)
    for n1 in tl.range(0, R, ROWS):
        n = (n1 + i).to(tl.int64)[:, None, None] * inner + n2
        at = row * x.row + (n - x.first) * x.step + c.to(tl.int64) * x.channel
        # Steps before the signal and after it are the zero padding of a linear convolution.
        valid = (n >= x.first) & (n < length) & (c < channels)
        # The (ROWS, ROWS) block of the (R, R) matrix W^(n1 k1), real and imaginary planes.
        fr = tl.load(first + k1[:, None] * R + (n1 + i)[None, :])
        fi = tl.load(first + R * R + k1[:, None] * R + (n1 + i)[None, :])
        gate_at = row * x.gate_row + (n - x.first) * x.gate_step + c.to(tl.int64) * x.gate_channel
        re = load_matrix(x.re, at, x.gate, gate_at, valid, ACC, fr.dtype)
        if first_bad is not None:
            steps = (n1 + i)[:, None, None] * inner + block * BLOCK + tl.arange(0, BLOCK)[None, None, :]
            re, here = set_apart(re, steps, length, LANES)
            bad = tl.minimum(bad, here)
        ar, ai = add_dot(ar, fr, re, ACC, PRECISION), add_dot(ai, fi, re, ACC, PRECISION)
    if first_bad is not None:
        lanes = lane + tl.arange(0, LANES)
        tl.atomic_min(first_bad + row * channels + lanes, bad, mask=(lanes < channels) & (bad < length))
    ar, ai = tl.reshape(ar, (ROWS, LANES, BLOCK)), tl.reshape(ai, (ROWS, LANES, BLOCK))
    tr, ti = _outer_twiddle(coarse, fine, k1, block, blocks, R, BLOCK, ACC)
    tr, ti = tr[:, None, :], ti[:, None, :]
    # The result has the columns last, dense in memory, whatever the layout of the signal was.
    c = lane + tl.arange(0, LANES)[None, :, None]
    at = ((row * channels + c) * R + k1[:, None, None]) * inner + block * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    valid = (c < channels) & (k1 < R)[:, None, None]
    tl.store(mid + at, (ar * tr - ai * ti).to(mid.dtype.element_ty), mask=valid)
    tl.store(mid + plane + at, (ar * ti + ai * tr).to(mid.dtype.element_ty), mask=valid)


@triton.jit
@no_type_check
def outer_inverse_kernel(
    mid, out, first_bad, first, coarse, fine, plane, length, channels, inner, scale,
    R: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Back from ``mid`` to a real signal, times its gates.

    Grid as in :func:`outer_kernel`. A program owns ROWS of the steps n1 for BLOCK columns of LANES channels; it streams
    all k1, undoes the twiddle and multiplies by the conjugate of the matrix transposed, real part only. From the step
    ``first_bad`` (batch, channels), if given, on the signal is NaN.
    """
    block, row, blocks = tl.program_id(0), tl.program_id(2).to(tl.int64), inner // BLOCK
    rows, lane = tl.program_id(1) % (R // ROWS) * ROWS, tl.program_id(1) // (R // ROWS) * LANES
    i, c = tl.arange(0, ROWS), lane + tl.arange(0, LANES)[None, :, None]
    y = tl.zeros([ROWS, LANES * BLOCK], ACC)
    for start in tl.range(0, R, ROWS):
        k1 = start + i
        at = ((row * channels + c) * R + k1[:, None, None]) * inner + block * BLOCK + tl.arange(0, BLOCK)[None, None, :]
        valid = (c < channels) & (k1 < R)[:, None, None]
        er = tl.load(mid + at, mask=valid, other=0).to(ACC)
        ei = tl.load(mid + plane + at, mask=valid, other=0).to(ACC)
        tr, ti = _outer_twiddle(coarse, fine, k1, block, blocks, R, BLOCK, ACC)
        tr, ti = tr[:, None, :], ti[:, None, :]
        # The conjugate transpose of the forward matrix: rows are steps now, columns frequencies.
        transposed = k1[None, :] * R + (rows + i)[:, None]
        fr, fi = tl.load(first + transposed), tl.load(first + R * R + transposed)
        # Re(conj(F)^T conj(twiddle) E) = F_re^T Re(...) + F_im^T Im(...): half the products, as the signal is real.
        y = add_dot(y, fr, tl.reshape(er * tr + ei * ti, (ROWS, LANES * BLOCK)).to(fr.dtype), ACC, PRECISION)
        y = add_dot(y, fi, tl.reshape(ei * tr - er * ti, (ROWS, LANES * BLOCK)).to(fr.dtype), ACC, PRECISION)
    n = (rows + i).to(tl.int64)[:, None, None] * inner + block * BLOCK + tl.arange(0, BLOCK)[None, :, None]
    c = lane + tl.arange(0, LANES)[None, None, :]
    at = row * out.row + (n - out.first) * out.step + c.to(tl.int64) * out.channel
    valid = (n >= out.first) & (n < length) & (c < channels)
    gate_at = row * out.gate_row + (n - out.first) * out.gate_step + c.to(tl.int64) * out.gate_channel
    y *= scale
    if first_bad is not None:
        lanes = lane + tl.arange(0, LANES)
        bad = tl.load(first_bad + row * channels + lanes, mask=lanes < channels, other=length)
        steps = (rows + i)[:, None, None] * inner + block * BLOCK + tl.arange(0, BLOCK)[None, None, :]
        y = spoil(y, steps, bad)
    store_matrix(out.re, at, out.gate, gate_at, y, valid, ACC)
    if out.other is not None:
        store_matrix(out.other, at, out.other_gate, gate_at, y, valid, ACC)
