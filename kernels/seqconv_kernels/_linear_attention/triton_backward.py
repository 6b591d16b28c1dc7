"""Backward kernels in Triton of recurrences with a matrix state; notation as in :mod:`.triton_forward`.

The adjoint recurrence, per token, with ``dS[t] = dL/dS[t]`` on all paths, ``S'[t] = diag(a[t]) S[t-1]``, g = dL/do and
``u = beta e`` what a token writes::

    dS[t] = scale q[t] g[t]^T + diag(a[t+1]) dS'[t+1]
    du[t] = dS[t]^T k[t],           dbeta[t] = du . e,        dv[t] = beta du
    dS'[t] = dS[t] - k[t] dv[t]^T   (delta rule)              dS'[t] = dS[t]   (linear attention)
    dq[t] = scale S[t] g[t],        dlog a[t] = rowsum(dS'[t] * S'[t])
    dk[t] = dS[t] u[t] - S'[t] dv[t]                          (the second term for the delta rule)

In chunks, with dS the gradient of the state that leaves one, two kernels. The first passes dS from chunk to chunk::

    w = du - ut^T (beta du),    du = scores^T g + k_end dS    (linear attention: w = du)
    dbeta = w . e,              dv = beta w
    dS <- diag(prod_s a[s]) dS + q_start^T g - k_start^T dv

The second one needs the states at both ends of a chunk and no order, so it is parallel over chunks. With
``dscores = g u^T`` and ``dkk = -dv u^T``, both masked to pairs of rows and with their decays between them::

    dq = scale dscores k + decayed g S^T
    dk = scale dscores^T q + (dkk + dkk^T) k + decayed (u dS^T - dv S^T)
    dlog a[s] = sum over all pairs (i, j), j < s <= i, of what passes from j to i

The last sum is taken from rows: adding a pair's product at i, subtracting it at j, and summing from the last row back
leaves it at exactly the rows between. The same for what enters (from row s on) and leaves the chunk (before row s).
"""

from typing import no_type_check

import triton
import triton.language as tl

from .._core.triton.functions import head_address, load_tile, load_vector, store_tile
from .triton_chunk import decay_matrix, dot, join_blocks, pair_mask, scalar_decays


@triton.jit
@no_type_check
def state_passing_backward_kernel(
    q, k, k_start, e, do, log_decay, beta, scores, ut, total, dfinal, dv, dbeta, dstates, dinitial,
    cu_seqlens, offsets, length, tokens, heads, d_k, d_v, scale,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
    DOT: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Pass the gradient of the state from chunk to chunk, backwards; write it, dv, and dbeta of these value channels.

    Grid (segments * blocks of value channels, heads), as in the forward. Per chunk a program streams the rows of q, k,
    do, e, scores and ut. dbeta sums over value channels, so every block of them writes a part of its own.
    """
    head, blocks = tl.program_id(1), tl.cdiv(d_v, BV)
    segment, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    column = block * BV
    begin, end = tl.load(cu_seqlens + segment), tl.load(cu_seqlens + segment + 1)
    left, count = d_v - column, tl.cdiv(end - begin, C)
    chunk = (tl.load(offsets + segment) + count) * heads + head
    # dS after the chunk at hand, (BK, BV) in registers.
    dstate = tl.zeros([BK, BV], ACC)
    if dfinal is not None:
        last = dfinal + (segment * heads + head) * d_k * d_v + column
        dstate += load_tile(last, d_v, d_k, left, BK, BV).to(ACC)
    for n in tl.range(count):
        chunk -= heads
        start = begin + (count - 1 - n) * C
        rows = tl.minimum(end - start, C).to(tl.int32)
        token = start * heads + head
        # Before anything of this chunk is added: the gradient of the state that leaves it.
        store_tile(dstates + chunk * d_k * d_v + column, d_v, dstate, d_k, left, BK, BV)
        q_tile = load_tile(head_address(q, start, length, head), q.step, rows, d_k, C, BK)
        k_tile = load_tile(head_address(k, start, length, head), k.step, rows, d_k, C, BK)
        g = load_tile(head_address(do, start, length, head) + column, do.step, rows, left, C, BV)
        if log_decay is not None:
            decays = head_address(log_decay, start, length, head)
            from_start, to_end, chunk_decay = scalar_decays(decays, log_decay.step, rows, C, ACC)
        # du = k_end dS + scores^T g, (C, BV).
        du = dot(k_tile, dstate, DOT, BF16, PRECISION)
        if log_decay is not None:
            du *= to_end[:, None]
        weights = load_tile(scores + token * C, heads * C, rows, C, C, C)
        du += dot(tl.trans(weights), g, DOT, BF16, PRECISION)
        if beta is not None:
            strengths = load_vector(head_address(beta, start, length, head), beta.step, rows, C, ACC)[:, None]
            if ut is not None:
                # w = du - ut^T (beta du), the adjoint of the triangular solve.
                solved = load_tile(ut + token * C, heads * C, rows, C, C, C)
                du -= dot(tl.trans(solved), strengths * du, DOT, BF16, PRECISION)
            error = load_tile(head_address(e, start, length, head) + column, e.step, rows, left, C, BV).to(ACC)
            i, part = tl.arange(0, C), block.to(tl.int64) * tokens * heads + token
            tl.store(dbeta + part + i * heads, tl.sum(du * error, 1), mask=i < rows)
            du *= strengths
        # dv = beta w; without beta, du itself.
        store_tile(dv + token * d_v + column, heads * d_v, du, rows, left, C, BV)
        # dS <- decay dS + q_start^T g - k_start^T dv; a scalar decay multiplies rows of g and dv instead.
        if total is not None:
            dstate *= load_vector(total + chunk * d_k, 1, d_k, BK, ACC)[:, None]
        else:
            g = scale * g.to(ACC)
        if log_decay is not None:
            dstate *= chunk_decay
            g *= from_start[:, None]
        dstate += dot(tl.trans(q_tile), g, DOT, BF16, PRECISION)
        if ut is not None:
            if k_start is not None:
                k_tile = load_tile(head_address(k_start, start, length, head), k_start.step, rows, d_k, C, BK)
            if log_decay is not None:
                du *= from_start[:, None]
            dstate -= dot(tl.trans(k_tile), du, DOT, BF16, PRECISION)
    store_tile(dinitial + (segment * heads + head) * d_k * d_v + column, d_v, dstate, d_k, left, BK, BV)


@triton.jit
@no_type_check
def intra_chunk_backward_kernel(
    q, k, log_decay, beta, do, e, dv, states, dstates, dq, dk, ddecay,
    starts, stops, length, tokens, heads, d_k, d_v, scale,
    VECTOR: tl.constexpr, DELTA: tl.constexpr, LEVELS: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
    DOT: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, keys and decays of each chunk, from the states that enter it and those that leave it.

    Grid (chunks, heads, blocks of key channels). A program owns BK key channels of a chunk, (C, BK). It first streams
    g, e, dv and both states in blocks of BV value channels, accumulating dscores and dkk (C, C) and the gradients of
    the decayed rows (C, BK); then it distributes them over pairs of rows, level by level for a vector decay. A scalar
    decay's gradient sums over key channels, so every block of them writes a part of its own.
    """
    chunk, head, d = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * BK
    start = tl.load(starts + chunk)
    rows, left = (tl.load(stops + chunk) - start).to(tl.int32), d_k - d
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    token = start * heads + head
    states += ((chunk * heads + head) * d_k + d) * d_v
    dstates += ((chunk * heads + head) * d_k + d) * d_v
    dscores, dkk = tl.zeros([C, C], ACC), tl.zeros([C, C], ACC)
    dq_start, dk_start, dk_end = tl.zeros([C, BK], ACC), tl.zeros([C, BK], ACC), tl.zeros([C, BK], ACC)
    dtotal = tl.zeros([BK], ACC)
    for c in tl.range(0, d_v, BV):
        g = load_tile(head_address(do, start, length, head) + c, do.step, rows, d_v - c, C, BV)
        error = tl.trans(load_tile(head_address(e, start, length, head) + c, e.step, rows, d_v - c, C, BV))
        state = load_tile(states + c, d_v, left, d_v - c, BK, BV)
        dstate = load_tile(dstates + c, d_v, left, d_v - c, BK, BV)
        # dscores = g e^T, before the strengths; (C, C), summed over blocks of value channels.
        dscores += dot(g, error, DOT, BF16, PRECISION)
        dq_start += dot(g, tl.trans(state), DOT, BF16, PRECISION)
        dk_end += dot(tl.trans(error), tl.trans(dstate), DOT, BF16, PRECISION)
        # The whole chunk's decay multiplies S on its way to the next state.
        dtotal += tl.sum(state.to(ACC) * dstate.to(ACC), 1)
        if DELTA:
            dr = load_tile(dv + token * d_v + c, heads * d_v, rows, d_v - c, C, BV)
            # The prediction k_start S + kk u enters the error with a minus sign.
            dkk -= dot(dr, error, DOT, BF16, PRECISION)
            dk_start -= dot(dr, tl.trans(state), DOT, BF16, PRECISION)
    if beta is not None:
        # u = beta e: the strengths multiply once here instead of in every block.
        strengths = load_vector(head_address(beta, start, length, head), beta.step, rows, C, ACC)
        dscores *= strengths[None, :]
        dkk *= strengths[None, :]
        dk_end *= strengths[:, None]
    q_acc = load_tile(head_address(q, start, length, head) + d, q.step, rows, left, C, BK).to(ACC)
    k_acc = load_tile(head_address(k, start, length, head) + d, k.step, rows, left, C, BK).to(ACC)
    dq_start *= scale
    if VECTOR:
        dscores *= scale
        # A row and its own key have no decay between them.
        own = tl.sum(tl.where(i == j, dscores, 0.0), 1)[:, None]
        dq_tile, dk_tile, slope = own * k_acc, own * q_acc, tl.zeros([C, BK], ACC)
        decays = head_address(log_decay, start, length, head) + d
        from_start = tl.exp(load_tile(decays, log_decay.step, rows, left, C, BK).to(ACC))
        to_end = tl.full([C, BK], 1, ACC)
        for level in tl.range(LEVELS):
            pairs = pair_mask(level, C)
            factors = tl.where(((i >> level) & 1) == 1, from_start, to_end)
            q_decayed, k_decayed = (q_acc * factors).to(DOT), (k_acc * factors).to(DOT)
            # A log decay at row s lies on all paths from rows before s to rows from s on: `slope` collects q dq of the
            # readers and k dk of those read, and a cumulative sum over the rows turns it into ddecay.
            of_pairs = tl.where(pairs, dscores, 0.0)
            # Second blocks read (their queries), first blocks are read (their keys).
            dreading = dot(of_pairs, k_decayed, DOT, BF16, PRECISION)
            dread = dot(tl.trans(of_pairs), q_decayed, DOT, BF16, PRECISION)
            dq_tile += factors * dreading
            slope += q_decayed.to(ACC) * dreading
            if DELTA:
                of_pairs = tl.where(pairs, dkk, 0.0)
                dpredicting = dot(of_pairs, k_decayed, DOT, BF16, PRECISION)
                dread += dot(tl.trans(of_pairs), k_decayed, DOT, BF16, PRECISION)
                dk_tile += factors * (dpredicting + dread)
                slope += k_decayed.to(ACC) * (dpredicting - dread)
            else:
                dk_tile += factors * dread
                slope -= k_decayed.to(ACC) * dread
            from_start, to_end = join_blocks(from_start, to_end, level)
        dq_start *= from_start
        dk_start *= from_start
        dk_end *= to_end
        leaving = k_acc * dk_end
        slope += q_acc * dq_start + k_acc * dk_start
        # From row s on; before row s, without its own; through the whole chunk.
        slope = tl.cumsum(slope, 0, reverse=True) + (tl.cumsum(leaving, 0) - leaving)
        slope += from_start * to_end * dtotal[None, :]
        store_tile(ddecay + token * d_k + d, heads * d_k, slope, rows, left, C, BK)
    else:
        if log_decay is None:
            factors = decay_matrix(None, 0, rows, C, ACC)
        else:
            factors = decay_matrix(head_address(log_decay, start, length, head), log_decay.step, rows, C, ACC)
        # One matrix of factors for all channels: two products give dq and dk of all pairs at once.
        of_pairs = scale * factors * dscores
        dq_tile = dot(of_pairs, k_acc, DOT, BF16, PRECISION)
        dk_tile = dot(tl.trans(of_pairs), q_acc, DOT, BF16, PRECISION)
        # What row i reads less what is read from it: zero in sum over the rows of a chunk.
        slope = q_acc * dq_tile - k_acc * dk_tile
        if DELTA:
            of_pairs = tl.where(i > j, factors * dkk, 0.0)
            dpredicting = dot(of_pairs, k_acc, DOT, BF16, PRECISION)
            dread = dot(tl.trans(of_pairs), k_acc, DOT, BF16, PRECISION)
            dk_tile += dpredicting + dread
            slope += k_acc * (dpredicting - dread)
        if log_decay is not None:
            decays = head_address(log_decay, start, length, head)
            from_start, to_end, chunk_decay = scalar_decays(decays, log_decay.step, rows, C, ACC)
            dq_start *= from_start[:, None]
            dk_start *= from_start[:, None]
            dk_end *= to_end[:, None]
            leaving = tl.sum(k_acc * dk_end, 1)
            slopes = tl.sum(slope + q_acc * dq_start + k_acc * dk_start, 1)
            slopes = tl.cumsum(slopes, 0, reverse=True) + (tl.cumsum(leaving, 0) - leaving)
            slopes += chunk_decay * tl.sum(dtotal, 0)
            at, part = tl.arange(0, C), tl.program_id(2).to(tl.int64) * tokens * heads + token
            tl.store(ddecay + part + at * heads, slopes, mask=at < rows)
    store_tile(dq + token * d_k + d, heads * d_k, dq_tile + dq_start, rows, left, C, BK)
    store_tile(dk + token * d_k + d, heads * d_k, dk_tile + dk_start + dk_end, rows, left, C, BK)
