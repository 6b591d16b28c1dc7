"""The transform of a long convolution inside one program, as functions compiled by Triton.

A tile holds LANES channels of one transform of N1 N2 points: as a signal it is a matrix (N1, LANES N2), step
``n = n1 N2 + n2``; as a spectrum (N1 LANES, K2), frequency ``k = k1 + N1 k2``; one reshapes into the other. So the
transform over n1 is a product from the left with an (N1, N1) matrix, the one over n2 from the right with (N2, K2), both
on the matrix units, with an elementwise twiddle between (see :mod:`.plan`). Real and imaginary parts are two matrices
in registers, and two planes in memory. Operands have the dtype of the tables, accumulators are ``ACC``.
"""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl


class SignalView(NamedTuple):
    """A signal (rows, steps, channels) that a kernel reads, times its gate.

    Attributes:
        re: its first element; the real parts if it is complex.
        im: imaginary parts, the result of an outer transform; ``None`` for a real signal.
        gate: multiplies the signal as it is loaded; ``None`` without.
        row: strides of the signal ...
        step: ...
        channel: ...
        first: position of its first step; a history comes before it.
        gate_row: strides of the gate ...
        gate_step: ...
        gate_channel: ...
    """

    re: Any
    im: Any
    gate: Any
    row: int
    step: int
    channel: int
    first: int
    gate_row: int
    gate_step: int
    gate_channel: int


class OutputView(NamedTuple):
    """Where a kernel writes a signal y: ``re = gate y`` and, if given, ``other = other_gate y``; both in one layout.

    The other attributes are those of :class:`SignalView`; ``im`` receives the imaginary part.
    """

    re: Any
    im: Any
    gate: Any
    other: Any
    other_gate: Any
    row: int
    step: int
    channel: int
    first: int
    gate_row: int
    gate_step: int
    gate_channel: int


@triton.jit
@no_type_check
def tile_offsets(step, channel, N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr):
    """Offsets (N1, N2, LANES) of this program's channels from the first step, given both strides."""
    # n = n1 N2 + n2: the slow index of the signal is the first axis of the tile.
    n = tl.arange(0, N1)[:, None, None] * N2 + tl.arange(0, N2)[None, :, None]
    return n * step + (tl.program_id(0) * LANES + tl.arange(0, LANES)).to(tl.int64)[None, None, :] * channel


@triton.jit
@no_type_check
def tile_mask(low, high, channels, N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr):
    """Which of the steps in [low, high) and of this program's channels exist."""
    n = tl.arange(0, N1)[:, None, None] * N2 + tl.arange(0, N2)[None, :, None]
    c = (tl.program_id(0) * LANES + tl.arange(0, LANES))[None, None, :]
    return (n >= low) & (n < high) & (c < channels)


@triton.jit
@no_type_check
def load_matrix(x, at, gate, gate_at, valid, ACC: tl.constexpr, DOT: tl.constexpr):
    """A signal at ``x + at``, times its gate at ``gate + gate_at`` if there is one, as a matrix (N1, LANES N2).

    Memory has the channels last (or the steps, after a transpose); the matrix has them between n1 and n2.
    """
    tile = tl.load(x + at, mask=valid, other=0).to(ACC)
    if gate is not None:
        tile *= tl.load(gate + gate_at, mask=valid, other=0).to(ACC)
    # The gate is applied in ACC and the product rounded once, as the operand of the first matrix product.
    tile = tile.to(DOT)
    if tile.shape[2] == 1:
        matrix = tl.reshape(tile, (tile.shape[0], tile.shape[1]))
    else:
        # (n1, n2, lane) to (n1, lane n2): one product from the left then transforms all lanes over n1 at once.
        matrix = tl.reshape(tl.permute(tile, (0, 2, 1)), (tile.shape[0], tile.shape[2] * tile.shape[1]))
    return matrix


@triton.jit
@no_type_check
def store_matrix(out, at, gate, gate_at, matrix, valid, ACC: tl.constexpr):
    """The inverse of :func:`load_matrix`."""
    if valid.shape[2] == 1:
        tile = tl.reshape(matrix, valid.shape)
    else:
        tile = tl.permute(tl.reshape(matrix, (valid.shape[0], valid.shape[2], valid.shape[1])), (0, 2, 1))
    if gate is not None:
        tile = tile * tl.load(gate + gate_at, mask=valid, other=0).to(ACC)
    tl.store(out + at, tile.to(out.dtype.element_ty), mask=valid)


@triton.jit
@no_type_check
def load_block(
    x, part, gate, row, start, low, high, channels,
    N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Real or imaginary ``part`` of a view x: the steps [low, high) of a block that starts at position ``start``."""
    # Positions before x.first belong to the history or to no one: masked by `low`, never read.
    valid, before = tile_mask(low, high, channels, N1, N2, LANES), (start - x.first).to(tl.int64)
    at, gate_at = tile_offsets(x.step, x.channel, N1, N2, LANES), 0
    part += row * x.row + before * x.step
    if gate is not None:
        gate += row * x.gate_row + before * x.gate_step
        gate_at = tile_offsets(x.gate_step, x.gate_channel, N1, N2, LANES)
    return load_matrix(part, at, gate, gate_at, valid, ACC, DOT)


@triton.jit
@no_type_check
def set_apart(matrix, n, never, LANES: tl.constexpr):
    """A signal (rows, LANES columns) with zeros for what is not finite, and the first such step of each lane.

    A transform would spread it over all steps. ``n`` (rows, 1, columns) are the steps, ``never`` is after the last.
    """
    tile = tl.reshape(matrix, (n.shape[0], LANES, n.shape[2]))
    finite = tl.abs(tile) < float("inf")  # false for NaN
    first = tl.min(tl.min(tl.where(finite, never, n), axis=2), axis=0)
    return tl.reshape(tl.where(finite, tile, tl.zeros_like(tile)), matrix.shape), first


@triton.jit
@no_type_check
def spoil(matrix, n, first):
    """A result (rows, LANES columns) that is NaN from the step ``first`` of each lane on."""
    reached = tl.reshape(n >= first[None, :, None], matrix.shape)
    return tl.where(reached, float("nan"), matrix)


@triton.jit
@no_type_check
def store_block(
    out, part, gate, row, start, low, high, channels, matrix,
    N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Write the steps [low, high) of a block into ``part`` of a view, times ``gate``; see :func:`load_block`."""
    valid, before = tile_mask(low, high, channels, N1, N2, LANES), (start - out.first).to(tl.int64)
    at, gate_at = tile_offsets(out.step, out.channel, N1, N2, LANES), 0
    part += row * out.row + before * out.step
    if gate is not None:
        gate += row * out.gate_row + before * out.gate_step
        gate_at = tile_offsets(out.gate_step, out.gate_channel, N1, N2, LANES)
    store_matrix(part, at, gate, gate_at, matrix, valid, ACC)


@triton.jit
@no_type_check
def load_table(table, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Both planes of a table."""
    at = tl.arange(0, HEIGHT)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(table + at), tl.load(table + HEIGHT * WIDTH + at)


@triton.jit
@no_type_check
def load_twiddle(table, N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr):
    """Both parts of the twiddle (N1 LANES, N2), the same for each lane."""
    # Rows count (k1, lane); W^(k1 n2) depends on k1 = row // LANES alone.
    at = (tl.arange(0, N1 * LANES) // LANES)[:, None] * N2 + tl.arange(0, N2)[None, :]
    return tl.load(table + at).to(ACC), tl.load(table + N1 * N2 + at).to(ACC)


@triton.jit
@no_type_check
def spectrum_tile(channels, N1: tl.constexpr, K2: tl.constexpr, LANES: tl.constexpr):
    """Offsets of this program's channels in spectra (channels, 2, N1, K2), and which exist."""
    row = tl.arange(0, N1 * LANES)
    c = tl.program_id(0) * LANES + row % LANES
    # A channel's spectrum is two planes (N1, K2), real then imaginary: 2 N1 K2 numbers apart.
    at = (c.to(tl.int64) * (2 * N1 * K2) + (row // LANES) * K2)[:, None] + tl.arange(0, K2)[None, :]
    return at, (c < channels)[:, None]


@triton.jit
@no_type_check
def dot(a, b, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """``a b``."""
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
@no_type_check
def add_dot(acc, a, b, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """``acc + a b``."""
    return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
@no_type_check
def transform(
    re, im, f1r, f1i, twiddle, f2r, f2i,
    N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The spectrum (N1 LANES, K2) of a signal (N1, LANES N2): over n1, twiddle, over n2."""
    # F1 v: two real products for a real signal, four for a complex one.
    ar, ai = dot(f1r, re, ACC, PRECISION), dot(f1i, re, ACC, PRECISION)
    if im is not None:
        ar -= dot(f1i, im, ACC, PRECISION)
        ai = add_dot(ai, f1r, im, ACC, PRECISION)
    # Rows now count (k1, lane): no element moves, the layout only gets another shape.
    ar, ai = tl.reshape(ar, (N1 * LANES, N2)), tl.reshape(ai, (N1 * LANES, N2))
    tr, ti = load_twiddle(twiddle, N1, N2, LANES, ACC)
    br, bi = (ar * tr - ai * ti).to(f2r.dtype), (ar * ti + ai * tr).to(f2r.dtype)
    # (br + i bi)(f2r + i f2i), real part then imaginary.
    re = add_dot(dot(br, f2r, ACC, PRECISION), -bi, f2i, ACC, PRECISION)
    im = add_dot(dot(br, f2i, ACC, PRECISION), bi, f2r, ACC, PRECISION)
    return re, im


@triton.jit
@no_type_check
def inverse_transform(
    re, im, twiddle, f2r, f2i,
    N1: tl.constexpr, N2: tl.constexpr, LANES: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From a spectrum back to (N1, LANES N2) before the last product, that with the conjugate of F1 transposed.

    All factors are conjugate transposes of those in :func:`transform`, in reverse order.
    """
    re, im, g2r, g2i = re.to(f2r.dtype), im.to(f2r.dtype), tl.trans(f2r), tl.trans(f2i)
    # Z conj(F2)^T: the signs of the imaginary products are those of a conjugate.
    er = add_dot(dot(re, g2r, ACC, PRECISION), im, g2i, ACC, PRECISION)
    ei = add_dot(dot(im, g2r, ACC, PRECISION), -re, g2i, ACC, PRECISION)
    tr, ti = load_twiddle(twiddle, N1, N2, LANES, ACC)
    # Times the conjugate twiddle.
    gr, gi = (er * tr + ei * ti).to(f2r.dtype), (ei * tr - er * ti).to(f2r.dtype)
    return tl.reshape(gr, (N1, LANES * N2)), tl.reshape(gi, (N1, LANES * N2))


@triton.jit
@no_type_check
def real_part(gr, gi, f1r, f1i, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """The last product of the inverse, whose result is real or needed in its real part only: half the operations."""
    return add_dot(dot(tl.trans(f1r), gr, ACC, PRECISION), tl.trans(f1i), gi, ACC, PRECISION)


@triton.jit
@no_type_check
def imaginary_part(gr, gi, f1r, f1i, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """The same for the imaginary part."""
    return dot(tl.trans(f1r), gi, ACC, PRECISION) - dot(tl.trans(f1i), gr, ACC, PRECISION)
