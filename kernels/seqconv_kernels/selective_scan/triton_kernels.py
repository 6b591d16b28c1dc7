"""Kernels in Triton of the selective scan, see :mod:`.triton` for the equations and for how they work together.

Layout in all of them: the states of a program are (BN, BD) in registers, ``d_state`` by channels, spread over the
lanes of one warp such that a lane holds all states of its channels. A row of u, delta, z, dy is (BD,), one load per
lane; a row of B and C is (BN,), the same for all channels, hence for all lanes. ``A`` is (d_state, channels), times
``log2(e)``, so that the decay is a single ``exp2`` instruction.
"""

from typing import no_type_check

import triton
import triton.language as tl

from .._core.triton.functions import address, head_address, sigmoid, silu_slope


@triton.jit
@no_type_check
def _place(starts, stops, segments, cu_seqlens, channels, per_group, n_states, BN: tl.constexpr, BD: tl.constexpr):
    """What this program owns: a chunk, and a block of channels of one group.

    Returns the chunk's index, start, steps, segment and the bounds of that; the group, how many of its channels are
    left, the first one, the offsets of the states in (d_state, channels), and which of them exist.
    """
    blocks = tl.cdiv(per_group, BD)
    groups = blocks * (channels // per_group)
    # The chunk varies slowest: programs that run at the same time read the same rows of B and C from the cache.
    chunk, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups // blocks
    start, stop, segment = tl.load(starts + chunk), tl.load(stops + chunk), tl.load(segments + chunk)
    begin, end = tl.load(cu_seqlens + segment), tl.load(cu_seqlens + segment + 1)
    block = (tl.program_id(0) % blocks) * BD
    first, c, n = group * per_group + block, tl.arange(0, BD), tl.arange(0, BN)
    exists = (n < n_states)[:, None] & (c < per_group - block)[None, :]
    # The hint keeps the compiler from giving a lane several neighbouring channels: sums over n then stay in a lane.
    at = tl.max_contiguous(n[:, None] * channels + first + c[None, :], [1, 1])
    return chunk, start, (stop - start).to(tl.int32), segment, begin, end, group, per_group - block, first, at, exists


@triton.jit
@no_type_check
def _time_step(delta, bias, mask, SOFTPLUS: tl.constexpr):
    """``softplus(delta + bias)``, zero where masked: such a step neither decays the state nor adds to it."""
    x = delta + bias
    if SOFTPLUS:
        # softplus(x) = max(x, 0) + log1p(exp(-|x|)). log1p(s) = log(1 + s) s / ((1 + s) - 1) cancels the rounding of
        # 1 + s (Higham, Accuracy and Stability of Numerical Algorithms, section 1.14.1); Triton has no log1p.
        small = tl.exp(-tl.abs(x))
        near_one = 1 + small
        log = tl.log(near_one) * (small / tl.where(near_one == 1, 1, near_one - 1))
        x = tl.maximum(x, 0.0) + tl.where(near_one == 1, small, log)
    return tl.where(mask, x, 0.0)


@triton.jit
@no_type_check
def _time_step_slope(delta, bias, SOFTPLUS: tl.constexpr):
    """Derivative of the time step with respect to delta."""
    return sigmoid(delta + bias) if SOFTPLUS else tl.full(delta.shape, 1, delta.dtype)


@triton.jit
@no_type_check
def _load_parameter(values, first, c, left, ACC: tl.constexpr):
    """A parameter (channels,) of this program's channels, zeros where it is absent."""
    if values is None:
        found = tl.zeros(c.shape, ACC)
    else:
        found = tl.load(values + first + c, mask=c < left, other=0).to(ACC)
    return found


@triton.jit
@no_type_check
def _load_row(x, t, step, index, steps, width, ACC: tl.constexpr):
    """Row t, zeros from ``width`` on and after the last of ``steps``."""
    return tl.load(x + t * step + index, mask=index < tl.where(t < steps, width, 0), other=0).to(ACC)


@triton.jit
@no_type_check
def _next_state(h, dt, rate, inflow, B_row):
    """``h[t] = exp(dt A) h[t-1] + (dt u) B``."""
    return tl.exp2(dt[None, :] * rate) * h + inflow[None, :] * B_row[:, None]


@triton.jit
@no_type_check
def chunk_state_kernel(
    u, delta, A, B, bias, states, decays, starts, stops, segments, cu_seqlens, length, channels, per_group, n_states,
    SOFTPLUS: tl.constexpr, PREFETCH: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Final state of each chunk from an initial state of zero, and its total decay ``exp(A sum_t dt[t])``.

    Grid (chunks * blocks of channels,). A program streams delta, u and B forwards in time. State passing needs neither
    result of the last chunk of a segment, so its programs take no step.
    """
    place = _place(starts, stops, segments, cu_seqlens, channels, per_group, n_states, BN, BD)
    chunk, start, steps, _, _, end, group, left, first, at, exists = place
    # The last chunk's state goes to no other chunk.
    steps = tl.where(start + steps == end, 0, steps)
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    u_rows, delta_rows = address(u, start, length) + first, address(delta, start, length) + first
    B_rows = head_address(B, start, length, group)
    rate, offset = tl.load(A + at, mask=exists, other=0), _load_parameter(bias, first, c, left, ACC)
    h, total = tl.zeros([BN, BD], ACC), tl.zeros([BD], ACC)
    for low in tl.range(0, steps, PREFETCH):
        # All loads of the group before its chain of dependent updates, so that they overlap.
        loaded = ()
        for i in tl.static_range(PREFETCH):
            loaded += (_load_row(delta_rows, low + i, delta.step, c, steps, left, ACC),)
            loaded += (_load_row(u_rows, low + i, u.step, c, steps, left, ACC),)
        for i in tl.static_range(PREFETCH):
            dt = _time_step(loaded[2 * i], offset, c < tl.where(low + i < steps, left, 0), SOFTPLUS)
            B_row = _load_row(B_rows, low + i, B.step, n, steps, n_states, ACC)
            h = _next_state(h, dt, rate, dt * loaded[2 * i + 1], B_row)
            total += dt
    base = chunk * n_states * channels
    tl.store(states + base + at, h, mask=exists)
    # The product of exponentials is the exponential of the sum: one exp2 per state instead of one per step.
    tl.store(decays + base + at, tl.exp2(total[None, :] * rate), mask=exists)


@triton.jit
@no_type_check
def chunk_scan_kernel(
    u, delta, A, B, C, D, z, bias, entering, y, final, checkpoints, checkpoint_offsets,
    starts, stops, segments, cu_seqlens, length, channels, per_group, n_states,
    SOFTPLUS: tl.constexpr, PREFETCH: tl.constexpr, CHECKPOINT: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Outputs of each chunk from the state that enters it; the final state; every CHECKPOINT-th state for a backward.

    Grid (chunks * blocks of channels,). A program streams delta, u, z, B and C forwards in time, keeps the states in
    registers, and writes a row of y per step.
    """
    place = _place(starts, stops, segments, cu_seqlens, channels, per_group, n_states, BN, BD)
    chunk, start, steps, segment, begin, end, group, left, first, at, exists = place
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    u_rows, delta_rows = address(u, start, length) + first, address(delta, start, length) + first
    B_rows, C_rows = head_address(B, start, length, group), head_address(C, start, length, group)
    if z is not None:
        z_rows = address(z, start, length) + first
    y += start * channels + first
    rate, offset = tl.load(A + at, mask=exists, other=0), _load_parameter(bias, first, c, left, ACC)
    skip = _load_parameter(D, first, c, left, ACC)
    states = tl.cast(n_states, tl.int64) * channels
    h = tl.load(entering + chunk * states + at, mask=exists, other=0)
    if checkpoints is not None:
        checkpoints += (tl.load(checkpoint_offsets + segment) + (start - begin) // CHECKPOINT) * states
    for low in tl.range(0, steps, PREFETCH):
        if checkpoints is not None:
            # A mask rather than a branch: all lanes store or none does.
            due = tl.where(low % CHECKPOINT == 0, BN, 0)
            tl.store(checkpoints + low // CHECKPOINT * states + at, h, mask=exists & (n[:, None] < due))
        loaded, outs = (), ()
        for i in tl.static_range(PREFETCH):
            loaded += (_load_row(delta_rows, low + i, delta.step, c, steps, left, ACC),)
            loaded += (_load_row(u_rows, low + i, u.step, c, steps, left, ACC),)
            loaded += (0 if z is None else _load_row(z_rows, low + i, z.step, c, steps, left, ACC),)
        for i in tl.static_range(PREFETCH):
            dt = _time_step(loaded[3 * i], offset, c < tl.where(low + i < steps, left, 0), SOFTPLUS)
            u_row, B_row = loaded[3 * i + 1], _load_row(B_rows, low + i, B.step, n, steps, n_states, ACC)
            h = _next_state(h, dt, rate, dt * u_row, B_row)
            C_row = _load_row(C_rows, low + i, C.step, n, steps, n_states, ACC)
            # C . h sums over the states, which lie in one lane: no exchange between lanes.
            out = tl.sum(h * C_row[:, None], 0) + skip * u_row
            if z is not None:
                out *= loaded[3 * i + 2] * sigmoid(loaded[3 * i + 2])
            outs += (out,)
        # Stores come after all loads of B and C: the compiler may not move a load up past a store.
        for i in tl.static_range(PREFETCH):
            exists_here = c < tl.where(low + i < steps, left, 0)
            tl.store(y + (low + i) * channels + c, outs[i].to(y.dtype.element_ty), mask=exists_here)
    # Only the last chunk of a segment writes the final state; an empty chunk has no state to write.
    last = tl.where(start + steps == end, tl.where(steps > 0, BN, 0), 0)
    tl.store(final + segment * states + at, h, mask=exists & (n[:, None] < last))


@triton.jit
@no_type_check
def chunk_state_backward_kernel(
    delta, A, C, z, bias, dy, dstates, decays, starts, stops, segments, cu_seqlens, length, channels, per_group,
    n_states,
    SOFTPLUS: tl.constexpr, PREFETCH: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient that each chunk sends to the state that enters it, and its total decay.

    Grid (chunks * blocks of channels,). A program streams delta, dy, z and C backwards in time and accumulates
    ``dh <- a[t] (dh + C[t] g[t])``. The first chunk of a segment has no chunk before it: no step.
    """
    place = _place(starts, stops, segments, cu_seqlens, channels, per_group, n_states, BN, BD)
    chunk, start, steps, _, begin, _, group, left, first, at, exists = place
    steps = tl.where(start == begin, 0, steps)
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    delta_rows, dy_rows = address(delta, start, length) + first, address(dy, start, length) + first
    C_rows = head_address(C, start, length, group)
    if z is not None:
        z_rows = address(z, start, length) + first
    rate, offset = tl.load(A + at, mask=exists, other=0), _load_parameter(bias, first, c, left, ACC)
    dh, total = tl.zeros([BN, BD], ACC), tl.zeros([BD], ACC)
    # Groups of steps from right to left; the first one taken may be short.
    groups = tl.cdiv(steps, PREFETCH)
    for back in tl.range(groups):
        low = (groups - 1 - back) * PREFETCH
        loaded = ()
        for i in tl.static_range(PREFETCH):
            t = low + (PREFETCH - 1 - i)
            loaded += (_load_row(delta_rows, t, delta.step, c, steps, left, ACC),)
            loaded += (_load_row(dy_rows, t, dy.step, c, steps, left, ACC),)
            loaded += (0 if z is None else _load_row(z_rows, t, z.step, c, steps, left, ACC),)
        for i in tl.static_range(PREFETCH):
            t = low + (PREFETCH - 1 - i)
            dt = _time_step(loaded[3 * i], offset, c < tl.where(t < steps, left, 0), SOFTPLUS)
            g, C_row = loaded[3 * i + 1], _load_row(C_rows, t, C.step, n, steps, n_states, ACC)
            if z is not None:
                g *= loaded[3 * i + 2] * sigmoid(loaded[3 * i + 2])
            # dh[t] on all paths, then what it sends to step t - 1.
            dh = tl.exp2(dt[None, :] * rate) * (dh + g[None, :] * C_row[:, None])
            total += dt
    base = chunk * n_states * channels
    tl.store(dstates + base + at, dh, mask=exists)
    tl.store(decays + base + at, tl.exp2(total[None, :] * rate), mask=exists)


@triton.jit
@no_type_check
def chunk_scan_backward_kernel(
    u, delta, A, B, C, D, z, bias, dy, checkpoints, checkpoint_offsets, dleaving,
    du, ddelta, dz, dA, dB, dC, dD, dbias, dinitial,
    starts, stops, segments, cu_seqlens, length, tokens, channels, per_group, groups, n_states,
    SOFTPLUS: tl.constexpr, PREFETCH: tl.constexpr, CHECKPOINT: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """All gradients of each chunk from its checkpoints and ``dleaving``, the gradient of the state that leaves it.

    Grid (chunks * blocks of channels,). A program goes backwards in time in groups of PREFETCH steps. For each group
    it recomputes forwards from the last checkpoint, keeps the group's states and decays in registers, and then takes
    its steps backwards with the adjoint recurrence in the head of :mod:`.triton`. Per step it writes du, ddelta, dz,
    and its parts of dB and dC (blocks of channels, tokens, groups, d_state); dA, dD and dbias accumulate in registers
    and are written once per chunk. The host adds the parts.
    """
    place = _place(starts, stops, segments, cu_seqlens, channels, per_group, n_states, BN, BD)
    chunk, start, steps, segment, begin, _, group, left, first, at, exists = place
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    u_rows, delta_rows = address(u, start, length) + first, address(delta, start, length) + first
    B_rows, C_rows = head_address(B, start, length, group), head_address(C, start, length, group)
    dy_rows = address(dy, start, length) + first
    du += start * channels + first
    ddelta += start * channels + first
    if z is not None:
        z_rows = address(z, start, length) + first
        dz += start * channels + first
    part = (tl.program_id(0) % tl.cdiv(per_group, BD)).to(tl.int64) * tokens + start
    dB += (part * groups + group) * n_states
    dC += (part * groups + group) * n_states
    all_channels, ln2 = c < left, tl.full([BD], 0.6931471805599453, ACC)
    rate, offset = tl.load(A + at, mask=exists, other=0), _load_parameter(bias, first, c, left, ACC)
    skip = _load_parameter(D, first, c, left, ACC)
    states = tl.cast(n_states, tl.int64) * channels
    checkpoints += (tl.load(checkpoint_offsets + segment) + (start - begin) // CHECKPOINT) * states
    # dh holds a[t+1] dh[t+1], what the later steps send to the state after step t.
    dh = tl.load(dleaving + chunk * states + at, mask=exists, other=0)
    drate, dskip, doffset = tl.zeros([BN, BD], ACC), tl.zeros([BD], ACC), tl.zeros([BD], ACC)
    step_groups = tl.cdiv(steps, PREFETCH)
    for back in tl.range(step_groups):
        low = (step_groups - 1 - back) * PREFETCH
        # Forwards from the checkpoint to the state before this group ...
        h = tl.load(checkpoints + low // CHECKPOINT * states + at, mask=exists, other=0)
        for t in tl.range(low // CHECKPOINT * CHECKPOINT, low):
            delta_row = _load_row(delta_rows, t, delta.step, c, steps, left, ACC)
            dt = _time_step(delta_row, offset, all_channels, SOFTPLUS)
            inflow = dt * _load_row(u_rows, t, u.step, c, steps, left, ACC)
            h = _next_state(h, dt, rate, inflow, _load_row(B_rows, t, B.step, n, steps, n_states, ACC))
        # ... and through it: kept[i] is the state before step low + i, decays[i] is exp(dt A) of that step.
        kept, decays = (h,), ()
        for i in tl.static_range(PREFETCH):
            t = low + i
            delta_row = _load_row(delta_rows, t, delta.step, c, steps, left, ACC)
            dt = _time_step(delta_row, offset, c < tl.where(t < steps, left, 0), SOFTPLUS)
            inflow = dt * _load_row(u_rows, t, u.step, c, steps, left, ACC)
            decay = tl.exp2(dt[None, :] * rate)
            h = decay * h + inflow[None, :] * _load_row(B_rows, t, B.step, n, steps, n_states, ACC)[:, None]
            kept += (h,)
            decays += (decay,)
        # Backwards through the group. The rows come from the cache: held since above, they would not fit registers.
        for i in tl.static_range(PREFETCH):
            t = low + (PREFETCH - 1 - i)
            mask, row_exists = c < tl.where(t < steps, left, 0), n < tl.where(t < steps, n_states, 0)
            delta_row = _load_row(delta_rows, t, delta.step, c, steps, left, ACC)
            dt, slope = _time_step(delta_row, offset, mask, SOFTPLUS), _time_step_slope(delta_row, offset, SOFTPLUS)
            u_row = _load_row(u_rows, t, u.step, c, steps, left, ACC)
            B_row = _load_row(B_rows, t, B.step, n, steps, n_states, ACC)
            C_row = _load_row(C_rows, t, C.step, n, steps, n_states, ACC)
            g = _load_row(dy_rows, t, dy.step, c, steps, left, ACC)
            if z is not None:
                z_row = _load_row(z_rows, t, z.step, c, steps, left, ACC)
                gate = sigmoid(z_row)
                out = tl.sum(kept[PREFETCH - i] * C_row[:, None], 0) + skip * u_row
                dz_row = g * out * silu_slope(z_row, gate)
                tl.store(dz + t * channels + c, dz_row.to(dz.dtype.element_ty), mask=mask)
                g *= z_row * gate
            dh += g[None, :] * C_row[:, None]
            # dL/d(log a[t]) = dh a h[t-1]; log a = dt A, so it feeds both ddt and dA.
            dlog_decay = dh * decays[PREFETCH - 1 - i] * kept[PREFETCH - 1 - i]
            # h[t] takes in dt u B: its gradient by dt u is dh . B, shared by du and ddt.
            dinflow = tl.sum(dh * B_row[:, None], 0)
            # rate ln2 = A.
            ddelta_row = (dinflow * u_row + tl.sum(dlog_decay * rate, 0) * ln2) * slope
            tl.store(du + t * channels + c, (dinflow * dt + skip * g).to(du.dtype.element_ty), mask=mask)
            tl.store(ddelta + t * channels + c, ddelta_row.to(ddelta.dtype.element_ty), mask=mask)
            # The only sums over channels, hence over the lanes of the warp.
            tl.store(dB + t * groups * n_states + n, tl.sum(dh * (dt * u_row)[None, :], 1), mask=row_exists)
            tl.store(dC + t * groups * n_states + n, tl.sum(kept[PREFETCH - i] * g[None, :], 1), mask=row_exists)
            # Sums over time, in registers: one store per chunk.
            drate += dlog_decay * dt[None, :]
            dskip += g * u_row
            doffset += tl.where(mask, ddelta_row, 0.0)
            dh *= decays[PREFETCH - 1 - i]
    tl.store(dA + chunk * states + at, drate, mask=exists)
    # Only the first chunk of a segment writes the gradient of its initial state.
    is_first = tl.where(start == begin, tl.where(steps > 0, BN, 0), 0)
    tl.store(dinitial + segment * states + at, dh, mask=exists & (n[:, None] < is_first))
    row = chunk * channels + first
    tl.store(dD + row + c, dskip, mask=all_channels)
    tl.store(dbias + row + c, doffset, mask=all_channels)
