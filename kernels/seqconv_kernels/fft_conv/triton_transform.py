"""The transform of a long convolution inside one program, as functions compiled by Triton.

A tile holds LANES channels of one transform: as a signal it is (N1, LANES N2), in steps ``n = n1 N2 + n2``, as a
spectrum (N1 LANES, K2); one reshapes into the other. Real and imaginary parts are two matrices, and two planes in
memory. The operands of the products have the dtype of the tables, the sums SUMS. A second pointer ``x_im`` or
``out_im`` (``None`` if real) makes a signal complex: what an outer transform hands on.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def offsets(step, channel, N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr):
    """Of this program's channels (N1, N2, LANES), from the first step."""
    n = tl.arange(0, N1)[:, None, None] * N2 + tl.arange(0, N2)[None, :, None]
    return n * step + (tl.program_id(0) * LANES + tl.arange(0, LANES)).to(tl.int64)[None, None, :] * channel


@triton.jit
@no_type_check
def exists(low, high, channels, N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr):
    """Which of the steps in [low, high) and of this program's channels exist."""
    n = tl.arange(0, N1)[:, None, None] * N2 + tl.arange(0, N2)[None, :, None]
    c = (tl.program_id(0) * LANES + tl.arange(0, LANES))[None, None, :]
    return (n >= low) & (n < high) & (c < channels)


@triton.jit
@no_type_check
def load(x, at, gate, beside, live, SUMS: tl.constexpr, DOT: tl.constexpr):
    """A signal at ``x + at``, times its gate at ``gate + beside`` if there is one, as a matrix."""
    tile = tl.load(x + at, mask=live, other=0).to(SUMS)
    if gate is not None:
        tile *= tl.load(gate + beside, mask=live, other=0).to(SUMS)
    tile = tile.to(DOT)
    if tile.shape[2] == 1:
        matrix = tl.reshape(tile, (tile.shape[0], tile.shape[1]))
    else:
        matrix = tl.reshape(tl.permute(tile, (0, 2, 1)), (tile.shape[0], tile.shape[2] * tile.shape[1]))
    return matrix


@triton.jit
@no_type_check
def store(out, at, gate, beside, matrix, live, SUMS: tl.constexpr):
    """The inverse of :func:`load`."""
    if live.shape[2] == 1:
        tile = tl.reshape(matrix, live.shape)
    else:
        tile = tl.permute(tl.reshape(matrix, (live.shape[0], live.shape[2], live.shape[1])), (0, 2, 1))
    if gate is not None:
        tile = tile * tl.load(gate + beside, mask=live, other=0).to(SUMS)
    tl.store(out + at, tile.to(out.dtype.element_ty), mask=live)


@triton.jit
@no_type_check
def load_parts(table, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Both planes of a table."""
    at = tl.arange(0, HEIGHT)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(table + at), tl.load(table + HEIGHT * WIDTH + at)


@triton.jit
@no_type_check
def load_twiddle(table, N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, SUMS: tl.constexpr):
    """Both parts of the twiddle, for each lane."""
    at = (tl.arange(0, N1 * LANES) // LANES)[:, None] * N2 + tl.arange(0, N2)[None, :]
    return tl.load(table + at).to(SUMS), tl.load(table + N1 * N2 + at).to(SUMS)


@triton.jit
@no_type_check
def spectral(channels, N1: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr):
    """Offsets of this program's channels in spectra (channels, 2, N1, K2), and which exist."""
    row = tl.arange(0, N1 * LANES)
    c = tl.program_id(0) * LANES + row % LANES
    at = (c.to(tl.int64) * (2 * N1 * K2) + (row // LANES) * K2)[:, None] + tl.arange(0, K2)[None, :]
    return at, (c < channels)[:, None]


@triton.jit
@no_type_check
def dot(a, b, SUMS: tl.constexpr, PRECISION: tl.constexpr):
    """``a b``."""
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=SUMS)


@triton.jit
@no_type_check
def add_dot(sums, a, b, SUMS: tl.constexpr, PRECISION: tl.constexpr):
    """``sums + a b``."""
    return tl.dot(a, b, sums, input_precision=PRECISION, out_dtype=SUMS)


@triton.jit
@no_type_check
def transform(
    re, im, f1r, f1i, twiddle, f2r, f2i,
    N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The spectrum of a signal."""
    ar, ai = dot(f1r, re, SUMS, PRECISION), dot(f1i, re, SUMS, PRECISION)
    if im is not None:
        ar -= dot(f1i, im, SUMS, PRECISION)
        ai = add_dot(ai, f1r, im, SUMS, PRECISION)
    ar, ai = tl.reshape(ar, (N1 * LANES, N2)), tl.reshape(ai, (N1 * LANES, N2))
    tr, ti = load_twiddle(twiddle, N1, N2, LANES, SUMS)
    br, bi = (ar * tr - ai * ti).to(f2r.dtype), (ar * ti + ai * tr).to(f2r.dtype)
    re = add_dot(dot(br, f2r, SUMS, PRECISION), -bi, f2i, SUMS, PRECISION)
    im = add_dot(dot(br, f2i, SUMS, PRECISION), bi, f2r, SUMS, PRECISION)
    return re, im


@triton.jit
@no_type_check
def untransform(
    re, im, twiddle, f2r, f2i,
    N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From a spectrum back to the last product, that with the conjugate of f1 transposed."""
    re, im, g2r, g2i = re.to(f2r.dtype), im.to(f2r.dtype), tl.trans(f2r), tl.trans(f2i)
    er = add_dot(dot(re, g2r, SUMS, PRECISION), im, g2i, SUMS, PRECISION)
    ei = add_dot(dot(im, g2r, SUMS, PRECISION), -re, g2i, SUMS, PRECISION)
    tr, ti = load_twiddle(twiddle, N1, N2, LANES, SUMS)
    gr, gi = (er * tr + ei * ti).to(f2r.dtype), (ei * tr - er * ti).to(f2r.dtype)
    return tl.reshape(gr, (N1, LANES * N2)), tl.reshape(gi, (N1, LANES * N2))


@triton.jit
@no_type_check
def real_part(gr, gi, f1r, f1i, SUMS: tl.constexpr, PRECISION: tl.constexpr):
    """The last product, whose result is known to be real or wanted in its real part."""
    return add_dot(dot(tl.trans(f1r), gr, SUMS, PRECISION), tl.trans(f1i), gi, SUMS, PRECISION)


@triton.jit
@no_type_check
def imaginary_part(gr, gi, f1r, f1i, SUMS: tl.constexpr, PRECISION: tl.constexpr):
    """The same for the imaginary part."""
    return dot(tl.trans(f1r), gi, SUMS, PRECISION) - dot(tl.trans(f1i), gr, SUMS, PRECISION)


@triton.jit
@no_type_check
def read(
    x, gate, strides, gate_strides, row, start, first, low, high, channels,
    N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, SUMS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Steps of a block that starts at the position ``start``, where the signal begins at ``first``."""
    live, behind = exists(low, high, channels, N1, N2, LANES), (start - first).to(tl.int64)
    x += row * strides[0] + behind * strides[1]
    at, beside = offsets(strides[1], strides[2], N1, N2, LANES), 0
    if gate is not None:
        gate += row * gate_strides[0] + behind * gate_strides[1]
        beside = offsets(gate_strides[1], gate_strides[2], N1, N2, LANES)
    return load(x, at, gate, beside, live, SUMS, DOT)
