"""Kernels in Triton for recurrences with a matrix state: chunks in matrix products, the state walking between them.

In a chunk of rows i and j, with ``S`` the state that enters and factors that are products of decays over a range of
rows, never quotients::

    qk[i, j] = scale sum_d q[i, d] k[j, d] prod_{j < s <= i} a[s, d]     for j <= i; kk likewise of k and k, for j < i
    q_in[i] = scale q[i] prod_{s <= i} a[s],  k_in[i] = k[i] prod_{s <= i} a[s],  k_out[j] = k[j] prod_{s > j} a[s]
    e = v                                            linear attention
    (I + kk beta) e = v - k_in S                     the delta rule: e is the error that each row sees
    o = q_in S + qk (beta e),   S <- diag(prod_s a[s]) S + k_out^T (beta e)

The inverse is kept as ``mixing = (I + kk beta)^-1 kk``, which turns errors forwards, ``e = z - mixing (beta z)``, and
gradients backwards, ``n = dr - mixing^T (beta dr)``, whatever beta is.

A vector decay joins blocks of rows pairwise: at each of log2(rows) levels, the rows of every second block multiply the
decays since that block began, those of the block before it the decays until it ends, and one product on the matrix
units gives all scores between such pairs. A scalar decay has one matrix of factors for all channels.
"""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl


class View(NamedTuple):
    """A tensor (batch, length, heads, width): its strides, and how many heads of the state share one of its own."""

    ptr: Any
    row: int
    step: int
    head: int
    share: int


@triton.jit
@no_type_check
def _at(x, start, length, head):
    """Address of the first channel at position ``start``, which counts on through the batch."""
    row = start // length
    return x.ptr + row * x.row + (start - row * length) * x.step + (head // x.share).to(tl.int64) * x.head


@triton.jit
@no_type_check
def _tile(ptr, step, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """ROWS x COLUMNS elements, zeros beyond ``rows`` and ``columns``."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return tl.load(ptr + i * step + j, mask=(i < rows) & (j < columns), other=0)


@triton.jit
@no_type_check
def _put(ptr, step, value, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Store what :func:`_tile` would load."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    tl.store(ptr + i * step + j, value.to(ptr.dtype.element_ty), mask=(i < rows) & (j < columns))


@triton.jit
@no_type_check
def _column(ptr, step, rows, ROWS: tl.constexpr, SUMS: tl.constexpr):
    """One value per row, zeros beyond ``rows``."""
    i = tl.arange(0, ROWS)
    return tl.load(ptr + i * step, mask=i < rows, other=0).to(SUMS)


@triton.jit
@no_type_check
def _dot(a, b, DOT: tl.constexpr, PRECISION: tl.constexpr):
    out: tl.constexpr = tl.float64 if tl.float64 == DOT else tl.float32
    return tl.dot(a.to(DOT), b.to(DOT), input_precision=PRECISION, out_dtype=out)


@triton.jit
@no_type_check
def _factors(log_decay, step, rows, C: tl.constexpr, SUMS: tl.constexpr):
    """Scalar decays of a chunk: from its start to each row, from each row to its end, from start to end."""
    g = _column(log_decay, step, rows, C, SUMS)
    later = _column(log_decay + step, step, rows - 1, C, SUMS)
    return tl.exp(tl.cumsum(g, 0)), tl.exp(tl.cumsum(later, 0, reverse=True)), tl.exp(tl.sum(g, 0))


@triton.jit
@no_type_check
def _between(log_decay, step, rows, C: tl.constexpr, SUMS: tl.constexpr):
    """Scalar decay from row j to row i, zero above the diagonal; without decay the triangle of ones."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    if log_decay is None:
        factors = tl.where(i >= j, 1.0, 0.0).to(SUMS)
    else:
        g = _column(log_decay, step, rows, C, SUMS)
        factors = tl.where(i >= j, tl.exp(tl.cumsum(tl.where(i > j, g[:, None], 0.0), 0)), 0.0)
    return factors


@triton.jit
@no_type_check
def _joined(since, until, level):
    """Decays since the start and until the end of blocks of 2**level rows: the same of blocks twice as long."""
    i = tl.arange(0, since.shape[0])[:, None]
    other = tl.gather(since * until, tl.broadcast_to(i ^ (1 << level), since.shape), 0)
    second = ((i >> level) & 1) == 1
    return tl.where(second, since * other, since), tl.where(second, until, until * other)


@triton.jit
@no_type_check
def _pairs(level, C: tl.constexpr):
    """Rows of a second block and columns of the first block before it, blocks having 2**level rows."""
    i, j = (tl.arange(0, C) >> level)[:, None], (tl.arange(0, C) >> level)[None, :]
    return (i == (j | 1)) & ((j & 1) == 0)


@triton.jit
@no_type_check
def _mixing(kk, beta, LEVELS: tl.constexpr, C: tl.constexpr, PRECISION: tl.constexpr):
    """(I + kk beta)^-1 kk, blocks of the inverse joined pairwise: -D^-1 B A^-1 below the inverses of A and D."""
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    scaled = kk * beta[None, :]
    inverse = tl.where(i == j, 1.0, 0.0).to(kk.dtype) - tl.where(_pairs(0, C), scaled, 0.0)
    for level in tl.range(1, LEVELS):
        below = tl.where(_pairs(level, C), scaled, 0.0)
        inverse -= _dot(_dot(inverse, below, kk.dtype, PRECISION), inverse, kk.dtype, PRECISION)
    return _dot(inverse, kk, kk.dtype, PRECISION)


@triton.jit
@no_type_check
def products_kernel(
    q, k, log_decay, beta, q_in, k_in, k_out, total, qk, mixing, starts, stops, length, heads, d_k, scale,
    VECTOR: tl.constexpr, LEVELS: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    SUMS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr,
):  # fmt: skip
    """What rows of a chunk see of each other; for a vector decay also the decayed queries and keys."""
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = tl.load(starts + chunk)
    rows = (tl.load(stops + chunk) - start).to(tl.int32)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    queries, keys = _at(q, start, length, head), _at(k, start, length, head)
    out, step = (start * heads + head) * d_k, heads * d_k
    reads, writes = tl.zeros([C, C], SUMS), tl.zeros([C, C], SUMS)
    for d in tl.range(0, d_k, BK):
        q_tile = _tile(queries + d, q.step, rows, d_k - d, C, BK)
        k_tile = _tile(keys + d, k.step, rows, d_k - d, C, BK)
        if VECTOR:
            q_wide, k_wide = q_tile.to(SUMS), k_tile.to(SUMS)
            decays = _at(log_decay, start, length, head) + d
            since = tl.exp(_tile(decays, log_decay.step, rows, d_k - d, C, BK).to(SUMS))
            until = tl.full([C, BK], 1, SUMS)
            reads += tl.where(i == j, tl.sum(q_wide * k_wide, 1)[:, None], 0.0)
            for level in tl.range(LEVELS):
                pairs, factors = _pairs(level, C), tl.where(((i >> level) & 1) == 1, since, until)
                faded = (k_wide * factors).to(DOT)
                reads += tl.where(pairs, _dot(q_wide * factors, tl.trans(faded), DOT, PRECISION), 0.0)
                if mixing is not None:
                    writes += tl.where(pairs, _dot(faded, tl.trans(faded), DOT, PRECISION), 0.0)
                since, until = _joined(since, until, level)
            _put(q_in + out + d, step, scale * q_wide * since, rows, d_k - d, C, BK)
            _put(k_out + out + d, step, k_wide * until, rows, d_k - d, C, BK)
            if mixing is not None:
                _put(k_in + out + d, step, k_wide * since, rows, d_k - d, C, BK)
            whole = tl.sum(tl.where(i == 0, since * until, 0.0), 0)
            c = tl.arange(0, BK)
            tl.store(total + (chunk * heads + head) * d_k + d + c, whole, mask=c < d_k - d)
        else:
            older = tl.trans(k_tile)
            reads += _dot(q_tile, older, DOT, PRECISION)
            if mixing is not None:
                writes += _dot(k_tile, older, DOT, PRECISION)
    if not VECTOR:
        if log_decay is None:
            factors = _between(None, 0, rows, C, SUMS)
        else:
            factors = _between(_at(log_decay, start, length, head), log_decay.step, rows, C, SUMS)
        reads *= factors
        writes = tl.where(i > j, writes * factors, 0.0)
    square, width = (start * heads + head) * C, heads * C
    _put(qk + square, width, scale * reads, rows, C, C, C)
    if mixing is not None:
        strength = _column(_at(beta, start, length, head), beta.step, rows, C, SUMS)
        _put(mixing + square, width, _mixing(writes, strength, LEVELS, C, SOLVE), rows, C, C, C)


@triton.jit
@no_type_check
def forward_kernel(
    q, k, k_in, v, log_decay, beta, qk, mixing, total, initial, o, errors, states, final,
    bounds, first, length, heads, d_k, d_v, scale,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    SUMS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk through the chunks of a segment with the state of some value channels; q and k decayed if by a vector."""
    head, blocks = tl.program_id(1), tl.cdiv(d_v, BV)
    segment, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    column = block * BV
    begin, end = tl.load(bounds + segment), tl.load(bounds + segment + 1)
    chunk, room = tl.load(first + segment) * heads + head, d_v - column
    state = tl.zeros([BK, BV], SUMS)
    if initial is not None:
        given = initial.ptr + segment * initial.row + (head // initial.share).to(tl.int64) * initial.head
        state += _tile(given + column, d_v, d_k, room, BK, BV).to(SUMS)
    for start in tl.range(begin, end, C):
        rows = tl.minimum(end - start, C).to(tl.int32)
        token = start * heads + head
        if states is not None:
            _put(states + chunk * d_k * d_v + column, d_v, state, d_k, room, BK, BV)
        k_tile = _tile(_at(k, start, length, head), k.step, rows, d_k, C, BK)
        written = _tile(_at(v, start, length, head) + column, v.step, rows, room, C, BV)
        if log_decay is not None:
            since, until, whole = _factors(_at(log_decay, start, length, head), log_decay.step, rows, C, SUMS)
        if beta is not None:
            strength = _column(_at(beta, start, length, head), beta.step, rows, C, SUMS)[:, None]
        if mixing is not None:
            if k_in is not None:
                heard = _dot(_tile(_at(k_in, start, length, head), k_in.step, rows, d_k, C, BK), state, DOT, PRECISION)
            else:
                heard = _dot(k_tile, state, DOT, PRECISION)
                if log_decay is not None:
                    heard *= since[:, None]
            error = written.to(SUMS) - heard
            mix = _tile(mixing + token * C, heads * C, rows, C, C, C)
            error -= _dot(mix, strength * error, DOT, PRECISION)
            if errors is not None:
                _put(errors + token * d_v + column, heads * d_v, error, rows, room, C, BV)
            written = strength * error
        elif beta is not None:
            written = strength * written.to(SUMS)
        if o is not None:
            q_tile = _tile(_at(q, start, length, head), q.step, rows, d_k, C, BK)
            out = _dot(q_tile, state, DOT, PRECISION)
            if total is None:
                out *= scale
            if log_decay is not None:
                out *= since[:, None]
            out += _dot(_tile(qk + token * C, heads * C, rows, C, C, C), written, DOT, PRECISION)
            _put(o + token * d_v + column, heads * d_v, out, rows, room, C, BV)
        if total is not None:
            state *= _column(total + chunk * d_k, 1, d_k, BK, SUMS)[:, None]
        if log_decay is not None:
            state *= whole
            written = until[:, None] * written.to(SUMS)
        state += _dot(tl.trans(k_tile), written, DOT, PRECISION)
        chunk += heads
    _put(final + (segment * heads + head) * d_k * d_v + column, d_v, state, d_k, room, BK, BV)


@triton.jit
@no_type_check
def returns_kernel(
    q, k, k_in, e, do, log_decay, beta, qk, mixing, total, dfinal, dv, dbeta, leaving, dinitial,
    bounds, first, length, tokens, heads, d_k, d_v, scale,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    SUMS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Walk backwards with the gradient of the state, which gives those of what each row wrote and of its strength."""
    head, blocks = tl.program_id(1), tl.cdiv(d_v, BV)
    segment, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    column = block * BV
    begin, end = tl.load(bounds + segment), tl.load(bounds + segment + 1)
    room, count = d_v - column, tl.cdiv(end - begin, C)
    chunk = (tl.load(first + segment) + count) * heads + head
    dstate = tl.zeros([BK, BV], SUMS)
    if dfinal is not None:
        received = dfinal + (segment * heads + head) * d_k * d_v + column
        dstate += _tile(received, d_v, d_k, room, BK, BV).to(SUMS)
    for n in tl.range(count):
        chunk -= heads
        start = begin + (count - 1 - n) * C
        rows = tl.minimum(end - start, C).to(tl.int32)
        token = start * heads + head
        _put(leaving + chunk * d_k * d_v + column, d_v, dstate, d_k, room, BK, BV)
        q_tile = _tile(_at(q, start, length, head), q.step, rows, d_k, C, BK)
        k_tile = _tile(_at(k, start, length, head), k.step, rows, d_k, C, BK)
        g = _tile(_at(do, start, length, head) + column, do.step, rows, room, C, BV)
        if log_decay is not None:
            since, until, whole = _factors(_at(log_decay, start, length, head), log_decay.step, rows, C, SUMS)
        dwritten = _dot(k_tile, dstate, DOT, PRECISION)
        if log_decay is not None:
            dwritten *= until[:, None]
        dwritten += _dot(tl.trans(_tile(qk + token * C, heads * C, rows, C, C, C)), g, DOT, PRECISION)
        if beta is not None:
            strength = _column(_at(beta, start, length, head), beta.step, rows, C, SUMS)[:, None]
            if mixing is not None:
                mix = _tile(mixing + token * C, heads * C, rows, C, C, C)
                dwritten -= _dot(tl.trans(mix), strength * dwritten, DOT, PRECISION)
            seen = _tile(_at(e, start, length, head) + column, e.step, rows, room, C, BV).to(SUMS)
            i, part = tl.arange(0, C), block.to(tl.int64) * tokens * heads + token
            tl.store(dbeta + part + i * heads, tl.sum(dwritten * seen, 1), mask=i < rows)
            dwritten *= strength
        _put(dv + token * d_v + column, heads * d_v, dwritten, rows, room, C, BV)
        if total is not None:
            dstate *= _column(total + chunk * d_k, 1, d_k, BK, SUMS)[:, None]
        else:
            g = scale * g.to(SUMS)
        if log_decay is not None:
            dstate *= whole
            g *= since[:, None]
        dstate += _dot(tl.trans(q_tile), g, DOT, PRECISION)
        if mixing is not None:
            if k_in is not None:
                k_tile = _tile(_at(k_in, start, length, head), k_in.step, rows, d_k, C, BK)
            if log_decay is not None:
                dwritten *= since[:, None]
            dstate -= _dot(tl.trans(k_tile), dwritten, DOT, PRECISION)
    _put(dinitial + (segment * heads + head) * d_k * d_v + column, d_v, dstate, d_k, room, BK, BV)


@triton.jit
@no_type_check
def gradients_kernel(
    q, k, log_decay, beta, do, e, dv, states, leaving, dq, dk, ddecay,
    starts, stops, length, tokens, heads, d_k, d_v, scale,
    VECTOR: tl.constexpr, DELTA: tl.constexpr, LEVELS: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    SUMS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, keys and decays of a chunk, from the states at its ends."""
    chunk, head, d = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * BK
    start = tl.load(starts + chunk)
    rows, room = (tl.load(stops + chunk) - start).to(tl.int32), d_k - d
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    token = start * heads + head
    states += ((chunk * heads + head) * d_k + d) * d_v
    leaving += ((chunk * heads + head) * d_k + d) * d_v
    dqk, dkk = tl.zeros([C, C], SUMS), tl.zeros([C, C], SUMS)
    dq_in, dk_in, dk_out = tl.zeros([C, BK], SUMS), tl.zeros([C, BK], SUMS), tl.zeros([C, BK], SUMS)
    dtotal = tl.zeros([BK], SUMS)
    for c in tl.range(0, d_v, BV):
        g = _tile(_at(do, start, length, head) + c, do.step, rows, d_v - c, C, BV)
        seen = tl.trans(_tile(_at(e, start, length, head) + c, e.step, rows, d_v - c, C, BV))
        before = _tile(states + c, d_v, room, d_v - c, BK, BV)
        after = _tile(leaving + c, d_v, room, d_v - c, BK, BV)
        dqk += _dot(g, seen, DOT, PRECISION)
        dq_in += _dot(g, tl.trans(before), DOT, PRECISION)
        dk_out += _dot(tl.trans(seen), tl.trans(after), DOT, PRECISION)
        dtotal += tl.sum(before.to(SUMS) * after.to(SUMS), 1)
        if DELTA:
            dz = _tile(dv + token * d_v + c, heads * d_v, rows, d_v - c, C, BV)
            dkk -= _dot(dz, seen, DOT, PRECISION)
            dk_in -= _dot(dz, tl.trans(before), DOT, PRECISION)
    if beta is not None:
        strength = _column(_at(beta, start, length, head), beta.step, rows, C, SUMS)
        dqk *= strength[None, :]
        dkk *= strength[None, :]
        dk_out *= strength[:, None]
    q_wide = _tile(_at(q, start, length, head) + d, q.step, rows, room, C, BK).to(SUMS)
    k_wide = _tile(_at(k, start, length, head) + d, k.step, rows, room, C, BK).to(SUMS)
    dq_in *= scale
    if VECTOR:
        dqk *= scale
        own = tl.sum(tl.where(i == j, dqk, 0.0), 1)[:, None]
        dq_tile, dk_tile, slope = own * k_wide, own * q_wide, tl.zeros([C, BK], SUMS)
        since = tl.exp(_tile(_at(log_decay, start, length, head) + d, log_decay.step, rows, room, C, BK).to(SUMS))
        until = tl.full([C, BK], 1, SUMS)
        for level in tl.range(LEVELS):
            pairs, factors = _pairs(level, C), tl.where(((i >> level) & 1) == 1, since, until)
            reading, faded = (q_wide * factors).to(DOT), (k_wide * factors).to(DOT)
            dscores = tl.where(pairs, dqk, 0.0).to(DOT)
            dreading = _dot(dscores, faded, DOT, PRECISION)
            dolder = _dot(tl.trans(dscores), reading, DOT, PRECISION)
            dq_tile += factors * dreading
            slope += reading.to(SUMS) * dreading
            if DELTA:
                dscores = tl.where(pairs, dkk, 0.0).to(DOT)
                dwriting = _dot(dscores, faded, DOT, PRECISION)
                dolder += _dot(tl.trans(dscores), faded, DOT, PRECISION)
                dk_tile += factors * (dwriting + dolder)
                slope += faded.to(SUMS) * (dwriting - dolder)
            else:
                dk_tile += factors * dolder
                slope -= faded.to(SUMS) * dolder
            since, until = _joined(since, until, level)
        dq_in *= since
        dk_in *= since
        dk_out *= until
        handed = k_wide * dk_out
        slope += q_wide * dq_in + k_wide * dk_in
        slope = tl.cumsum(slope, 0, reverse=True) + (tl.cumsum(handed, 0) - handed) + since * until * dtotal[None, :]
        _put(ddecay + token * d_k + d, heads * d_k, slope, rows, room, C, BK)
    else:
        if log_decay is None:
            factors = _between(None, 0, rows, C, SUMS)
        else:
            factors = _between(_at(log_decay, start, length, head), log_decay.step, rows, C, SUMS)
        dscores = (scale * factors * dqk).to(DOT)
        dq_tile = _dot(dscores, k_wide, DOT, PRECISION)
        dk_tile = _dot(tl.trans(dscores), q_wide, DOT, PRECISION)
        slope = q_wide * dq_tile - k_wide * dk_tile
        if DELTA:
            dscores = tl.where(i > j, factors * dkk, 0.0).to(DOT)
            dwriting = _dot(dscores, k_wide, DOT, PRECISION)
            dolder = _dot(tl.trans(dscores), k_wide, DOT, PRECISION)
            dk_tile += dwriting + dolder
            slope += k_wide * (dwriting - dolder)
        if log_decay is not None:
            since, until, whole = _factors(_at(log_decay, start, length, head), log_decay.step, rows, C, SUMS)
            dq_in *= since[:, None]
            dk_in *= since[:, None]
            dk_out *= until[:, None]
            handed = tl.sum(k_wide * dk_out, 1)
            falls = tl.sum(slope + q_wide * dq_in + k_wide * dk_in, 1)
            falls = tl.cumsum(falls, 0, reverse=True) + (tl.cumsum(handed, 0) - handed) + whole * tl.sum(dtotal, 0)
            rows_at, part = tl.arange(0, C), tl.program_id(2).to(tl.int64) * tokens * heads + token
            tl.store(ddecay + part + rows_at * heads, falls, mask=rows_at < rows)
    _put(dq + token * d_k + d, heads * d_k, dq_tile + dq_in, rows, room, C, BK)
    _put(dk + token * d_k + d, heads * d_k, dk_tile + dk_in + dk_out, rows, room, C, BK)
