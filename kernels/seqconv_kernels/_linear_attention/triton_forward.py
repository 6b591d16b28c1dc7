"""Forward kernels in Triton of recurrences with a matrix state: chunks as matrix products, the state passed along.

In a chunk of rows i and j, with ``S`` the state that enters and decays that are products over a range of rows, never
quotients::

    scores[i, j] = scale sum_d q[i, d] k[j, d] prod_{j < s <= i} a[s, d]    for j <= i
    kk[i, j]     =       sum_d k[i, d] k[j, d] prod_{j < s <= i} a[s, d]    for j < i
    q_start[i] = scale q[i] prod_{s <= i} a[s]       from the start of the chunk to row i
    k_start[i] =       k[i] prod_{s <= i} a[s]
    k_end[j]   =       k[j] prod_{s > j} a[s]        from row j to the end of the chunk
    e = v                                            linear attention
    (I + kk diag(beta)) e = v - k_start S            the delta rule: e is the error of each row's prediction
    u = beta e                                       what each row writes at its key
    o = q_start S + scores u                         chunk_scan
    S <- diag(prod_s a[s]) S + k_end^T u             chunk_state and state_passing in one

The inverse is kept as ``ut = (I + kk diag(beta))^-1 kk``, which serves both directions for any beta, zero included:
``e = r - ut (beta r)`` with ``r = v - k_start S``, and in the backward ``dr = de - ut^T (beta de)``.

A vector decay joins blocks of rows pairwise: at each of log2(C) levels, the rows of every second block multiply the
decays since that block began, those of the block before it the decays until it ends, and one product on the matrix
units gives all scores between such pairs. A scalar decay has one matrix of factors for all channels.

Whatever a state is made of (ut, k_start, k_end, the state itself) has 16 bits at least, see :func:`precise_dot`; what
only an output sees (scores, q_start) rounds to the dtype of the inputs, like that output.
"""

from typing import no_type_check

import triton
import triton.language as tl

from .._core.triton.functions import head_address, load_tile, load_vector, store_tile
from .triton_chunk import (
    decay_matrix,
    dot,
    join_blocks,
    pair_mask,
    precise_dot,
    rest,
    scalar_decays,
    store_planes,
    ut_transform,
)


@triton.jit
@no_type_check
def intra_chunk_kernel(
    q, k, log_decay, beta, q_start, k_start, k_end, total, scores, ut, starts, stops, length, tokens, heads, d_k, scale,
    VECTOR: tl.constexpr, LEVELS: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    ACC: tl.constexpr, DOT: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products between the rows of each chunk: scores, ut, and for a vector decay the decayed queries and keys.

    Grid (chunks, heads). A program owns one chunk of one head, streams q, k and log_decay in blocks of BK channels
    (C, BK), and accumulates scores and kk, (C, C) each, in registers; the decayed rows are written block by block.
    """
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    start = tl.load(starts + chunk)
    rows = (tl.load(stops + chunk) - start).to(tl.int32)
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    q_rows, k_rows = head_address(q, start, length, head), head_address(k, start, length, head)
    out, step = (start * heads + head) * d_k, heads * d_k
    # Both accumulate over the blocks of key channels; kk is for the delta rule alone.
    qk, kk = tl.zeros([C, C], ACC), tl.zeros([C, C], ACC)
    for d in tl.range(0, d_k, BK):
        q_tile = load_tile(q_rows + d, q.step, rows, d_k - d, C, BK)
        k_tile = load_tile(k_rows + d, k.step, rows, d_k - d, C, BK)
        if VECTOR:
            q_acc, k_acc = q_tile.to(ACC), k_tile.to(ACC)
            decays = head_address(log_decay, start, length, head) + d
            # Blocks of one row: a row's own decay leads to it from its start, and nothing is after it.
            from_start = tl.exp(load_tile(decays, log_decay.step, rows, d_k - d, C, BK).to(ACC))
            to_end = tl.full([C, BK], 1, ACC)
            qk += tl.where(i == j, tl.sum(q_acc * k_acc, 1)[:, None], 0.0)
            for level in tl.range(LEVELS):
                pairs = pair_mask(level, C)
                # One matrix holds both operands: second blocks decay from their start, first blocks to their end.
                factors = tl.where(((i >> level) & 1) == 1, from_start, to_end)
                k_decayed = k_acc * factors
                # The product fills (C, C), but has the right decay at this level's pairs alone: the mask keeps those.
                qk += tl.where(pairs, dot(q_acc * factors, tl.trans(k_decayed), DOT, BF16, PRECISION), 0.0)
                if ut is not None:
                    keys = precise_dot(k_decayed, rest(k_decayed), tl.trans(k_decayed), True, DOT, BF16, PRECISION)
                    kk += tl.where(pairs, keys, 0.0)
                from_start, to_end = join_blocks(from_start, to_end, level)
            # Now there is one block, the chunk.
            store_tile(q_start + out + d, step, scale * q_acc * from_start, rows, d_k - d, C, BK)
            plane = tokens * heads * d_k
            store_planes(k_end + out + d, plane, step, k_acc * to_end, rows, d_k - d, C, BK, DOT)
            if ut is not None:
                store_planes(k_start + out + d, plane, step, k_acc * from_start, rows, d_k - d, C, BK, DOT)
            # The product of both is the total decay in every row; row 0 is read out.
            chunk_decay = tl.sum(tl.where(i == 0, from_start * to_end, 0.0), 0)
            c = tl.arange(0, BK)
            tl.store(total + (chunk * heads + head) * d_k + d + c, chunk_decay, mask=c < d_k - d)
        else:
            # A scalar decay is the same for all channels: plain products here, one matrix of factors after the loop.
            keys = tl.trans(k_tile)
            qk += dot(q_tile, keys, DOT, BF16, PRECISION)
            if ut is not None:
                kk += dot(k_tile, keys, DOT, BF16, PRECISION)
    if not VECTOR:
        if log_decay is None:
            factors = decay_matrix(None, 0, rows, C, ACC)
        else:
            factors = decay_matrix(head_address(log_decay, start, length, head), log_decay.step, rows, C, ACC)
        qk *= factors
        # A row's own key is not part of its prediction: strictly lower triangular.
        kk = tl.where(i > j, kk * factors, 0.0)
    square, width = (start * heads + head) * C, heads * C
    store_tile(scores + square, width, scale * qk, rows, C, C, C)
    if ut is not None:
        strengths = load_vector(head_address(beta, start, length, head), beta.step, rows, C, ACC)
        solved = ut_transform(kk, strengths, LEVELS, C, DOT, BF16, PRECISION)
        store_planes(ut + square, tokens * width, width, solved, rows, C, C, C, DOT)


@triton.jit
@no_type_check
def state_passing_kernel(
    q, k, k_start, v, log_decay, beta, scores, ut, total, initial, o, errors, states, final,
    cu_seqlens, offsets, length, tokens, heads, d_k, d_v, scale,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
    DOT: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass the state from chunk to chunk; write outputs, errors and the states that enter, whichever are given.

    Grid (segments * blocks of value channels, heads). A program owns BV value channels of one head's state, (BK, BV) in
    registers with all key channels, and takes the chunks of its segment in order; per chunk it streams the rows of k,
    v, ut, q and scores. Value channels never meet, so blocks of them are independent programs. For a vector decay
    ``q`` and ``k`` are q_start and k_end, and ``total`` is given; else ``log_decay`` is, or there is none.
    """
    HALF: tl.constexpr = (tl.bfloat16 == DOT) or (tl.float16 == DOT)
    head, blocks = tl.program_id(1), tl.cdiv(d_v, BV)
    segment, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    column = block * BV
    begin, end = tl.load(cu_seqlens + segment), tl.load(cu_seqlens + segment + 1)
    chunk, left = tl.load(offsets + segment) * heads + head, d_v - column
    plane = tokens * heads * d_k
    state = tl.zeros([BK, BV], ACC)
    if initial is not None:
        first = initial.ptr + segment * initial.row + (head // initial.share).to(tl.int64) * initial.head
        state += load_tile(first + column, d_v, d_k, left, BK, BV).to(ACC)
    for start in tl.range(begin, end, C):
        rows = tl.minimum(end - start, C).to(tl.int32)
        token = start * heads + head
        if states is not None:
            store_tile(states + chunk * d_k * d_v + column, d_v, state, d_k, left, BK, BV)
        k_at = head_address(k, start, length, head)
        k_tile = load_tile(k_at, k.step, rows, d_k, C, BK)
        # Rows after the end of the segment are zeros: they write nothing and their outputs are not stored.
        u = load_tile(head_address(v, start, length, head) + column, v.step, rows, left, C, BV)
        if log_decay is not None:
            decays = head_address(log_decay, start, length, head)
            from_start, to_end, chunk_decay = scalar_decays(decays, log_decay.step, rows, C, ACC)
        if beta is not None:
            strengths = load_vector(head_address(beta, start, length, head), beta.step, rows, C, ACC)[:, None]
        if ut is not None:
            # r = v - k_start S, then e = r - ut (beta r).
            if k_start is not None:
                keys_at = head_address(k_start, start, length, head)
                keys, keys_rest = load_tile(keys_at, k_start.step, rows, d_k, C, BK), None
                if HALF:
                    keys_rest = load_tile(keys_at + plane, k_start.step, rows, d_k, C, BK)
                prediction = precise_dot(keys, keys_rest, state, True, DOT, BF16, PRECISION)
            else:
                prediction = precise_dot(k_tile, None, state, True, DOT, BF16, PRECISION)
                if log_decay is not None:
                    prediction *= from_start[:, None]
            error = u.to(ACC) - prediction
            solved, solved_rest = load_tile(ut + token * C, heads * C, rows, C, C, C), None
            if HALF:
                solved_rest = load_tile(ut + tokens * heads * C + token * C, heads * C, rows, C, C, C)
            error -= precise_dot(solved, solved_rest, strengths * error, True, DOT, BF16, PRECISION)
            if errors is not None:
                store_tile(errors + token * d_v + column, heads * d_v, error, rows, left, C, BV)
            # What each row writes at its key.
            u = strengths * error
        elif beta is not None:
            u = strengths * u.to(ACC)
        if o is not None:
            # o = q_start S + scores u; a scalar decay multiplies rows of the product instead of the queries.
            q_tile = load_tile(head_address(q, start, length, head), q.step, rows, d_k, C, BK)
            out = dot(q_tile, state, DOT, BF16, PRECISION)
            if total is None:
                out *= scale
            if log_decay is not None:
                out *= from_start[:, None]
            # The rows of this chunk that precede each row, itself included.
            weights = load_tile(scores + token * C, heads * C, rows, C, C, C)
            out += dot(weights, u, DOT, BF16, PRECISION)
            store_tile(o + token * d_v + column, heads * d_v, out, rows, left, C, BV)
        # S <- decay S + k_end^T u.
        if total is not None:
            state *= load_vector(total + chunk * d_k, 1, d_k, BK, ACC)[:, None]
        if log_decay is not None:
            state *= chunk_decay
            u = to_end[:, None] * u.to(ACC)
        # Values that neither a strength nor a decay has multiplied are exact as they are.
        VALUES_SPLIT: tl.constexpr = (beta is not None) or (log_decay is not None)
        keys_rest = None
        if HALF and total is not None:
            keys_rest = tl.trans(load_tile(k_at + plane, k.step, rows, d_k, C, BK))
        state += precise_dot(tl.trans(k_tile), keys_rest, u, VALUES_SPLIT, DOT, BF16, PRECISION)
        chunk += heads
    store_tile(final + (segment * heads + head) * d_k * d_v + column, d_v, state, d_k, left, BK, BV)
