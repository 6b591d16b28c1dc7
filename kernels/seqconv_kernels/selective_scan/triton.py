"""The selective scan in Triton: pieces of sequences side by side, the states between them, then the pieces again.

A program is one warp. It holds the states of a block of channels in registers, (d_state, channels), and walks through
one piece, ``AHEAD`` steps at a time, whose inputs it loads at once. Where batch and channels alone fill the GPU, pieces
are whole sequences, and one walk does it. Else all pieces but the last of a sequence are walked once more beforehand,
for the state that each hands on. The forward keeps every ``KEPT``-th state for the backward, which walks the pieces
from right to left and recomputes the states between, ``AHEAD`` at a time in registers. Sums over channels are written
once for each block of channels; all parts are added in a fixed order.

What bounds it is the exponential, d_state times per token, channel and walk: 16 lanes per clock and multiprocessor. It
is taken to the base 2, which is one instruction, of rates that are scaled beforehand.
"""

import math
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.checks import readable
from .._core.native import dense_rows
from .._core.operators import operator, typed_like
from .._core.triton_functions import TYPES, row_at, sigmoid
from .._core.triton_support import Chunks, count_segments, on_device, sums_dtype
from ..linear_scan.triton import join
from .reference import time_step

AHEAD, KEPT = 4, 16
LEAST_PIECE, PROGRAMS = 32, 2048  # so many programs keep a large GPU busy
STATES, STATES_BACKWARDS = 512, 256  # in registers; the backward keeps those of AHEAD steps


@triton.jit
@no_type_check
def _place(starts, stops, segments, bounds, channels, per_group, n_states, BN: tl.constexpr, BD: tl.constexpr):
    """The piece: index, start, steps, segment and its bounds; the channels: group, how many, the first, their states.

    Programs that run at the same time share a piece, hence its B and C.
    """
    blocks = tl.cdiv(per_group, BD)
    groups = blocks * (channels // per_group)
    piece, group = (tl.program_id(0) // groups).to(tl.int64), tl.program_id(0) % groups // blocks
    start, stop, segment = tl.load(starts + piece), tl.load(stops + piece), tl.load(segments + piece)
    origin, end = tl.load(bounds + segment), tl.load(bounds + segment + 1)
    block = (tl.program_id(0) % blocks) * BD
    first, c, n = group * per_group + block, tl.arange(0, BD), tl.arange(0, BN)
    exists = (n < n_states)[:, None] & (c < per_group - block)[None, :]
    at = tl.max_contiguous(n[:, None] * channels + first + c[None, :], [1, 1])  # so that a lane has a channel
    return piece, start, (stop - start).to(tl.int32), segment, origin, end, group, per_group - block, first, at, exists


@triton.jit
@no_type_check
def _time_step(delta, bias, mask, SOFTPLUS: tl.constexpr):
    """The time step, zero where masked."""
    x = delta + bias
    if SOFTPLUS:
        small = tl.exp(-tl.abs(x))
        near_one = 1 + small  # log(1 + small), exact where 1 + small is rounded
        log = tl.log(near_one) * (small / tl.where(near_one == 1, 1, near_one - 1))
        x = tl.maximum(x, 0.0) + tl.where(near_one == 1, small, log)
    return tl.where(mask, x, 0.0)


@triton.jit
@no_type_check
def _slope(delta, bias, SOFTPLUS: tl.constexpr):
    """Of the time step in ``delta``."""
    return sigmoid(delta + bias) if SOFTPLUS else tl.full(delta.shape, 1, delta.dtype)


@triton.jit
@no_type_check
def _parameter(values, first, c, room, SUMS: tl.constexpr):
    """Values of the channels from the first on, zeros without any."""
    if values is None:
        found = tl.zeros(c.shape, SUMS)
    else:
        found = tl.load(values + first + c, mask=c < room, other=0).to(SUMS)
    return found


@triton.jit
@no_type_check
def _vector(x, t, step, index, count, width, SUMS: tl.constexpr):
    """Values at step t, zeros beyond ``width`` and behind the last of ``count`` steps."""
    return tl.load(x + t * step + index, mask=index < tl.where(t < count, width, 0), other=0).to(SUMS)


@triton.jit
@no_type_check
def _grown(h, dt, rate, inflow, weights):
    """The next state."""
    return tl.exp2(dt[None, :] * rate) * h + inflow[None, :] * weights[:, None]


@triton.jit
@no_type_check
def _ends_kernel(
    u, delta, A, B, bias, ends, decays, starts, stops, segments, bounds, length, channels, per_group, n_states,
    u_row, u_step, delta_row, delta_step, B_row, B_step, B_group,
    SOFTPLUS: tl.constexpr, AHEAD: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """What each piece makes of a state of zero, and its decay; nobody asks for those of the last of a segment."""
    place = _place(starts, stops, segments, bounds, channels, per_group, n_states, BN, BD)
    piece, start, count, _, _, end, group, room, first, at, exists = place
    count = tl.where(start + count == end, 0, count)
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    u = row_at(u, start, length, u_row, u_step) + first
    delta = row_at(delta, start, length, delta_row, delta_step) + first
    B = row_at(B, start, length, B_row, B_step) + group * B_group
    rate, offset = tl.load(A + at, mask=exists, other=0), _parameter(bias, first, c, room, SUMS)
    h, total = tl.zeros([BN, BD], SUMS), tl.zeros([BD], SUMS)
    for low in tl.range(0, count, AHEAD):
        loaded = ()
        for i in tl.static_range(AHEAD):
            loaded += (_vector(delta, low + i, delta_step, c, count, room, SUMS),)
            loaded += (_vector(u, low + i, u_step, c, count, room, SUMS),)
        for i in tl.static_range(AHEAD):
            dt = _time_step(loaded[2 * i], offset, c < tl.where(low + i < count, room, 0), SOFTPLUS)
            weights = _vector(B, low + i, B_step, n, count, n_states, SUMS)
            h = _grown(h, dt, rate, dt * loaded[2 * i + 1], weights)
            total += dt
    base = piece * n_states * channels
    tl.store(ends + base + at, h, mask=exists)
    tl.store(decays + base + at, tl.exp2(total[None, :] * rate), mask=exists)


@triton.jit
@no_type_check
def _outputs_kernel(
    u, delta, A, B, C, D, z, bias, entering, y, final, kept, kept_first,
    starts, stops, segments, bounds, length, channels, per_group, n_states,
    u_row, u_step, delta_row, delta_step, B_row, B_step, B_group, C_row, C_step, C_group, z_row, z_step,
    SOFTPLUS: tl.constexpr, AHEAD: tl.constexpr, KEPT: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """All outputs of each piece from the state that enters it; the final state; every KEPT-th state if asked for."""
    place = _place(starts, stops, segments, bounds, channels, per_group, n_states, BN, BD)
    piece, start, count, segment, origin, end, group, room, first, at, exists = place
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    u = row_at(u, start, length, u_row, u_step) + first
    delta = row_at(delta, start, length, delta_row, delta_step) + first
    B = row_at(B, start, length, B_row, B_step) + group * B_group
    C = row_at(C, start, length, C_row, C_step) + group * C_group
    if z is not None:
        z = row_at(z, start, length, z_row, z_step) + first
    y += start * channels + first
    rate, offset = tl.load(A + at, mask=exists, other=0), _parameter(bias, first, c, room, SUMS)
    skip = _parameter(D, first, c, room, SUMS)
    states = tl.cast(n_states, tl.int64) * channels
    h = tl.load(entering + piece * states + at, mask=exists, other=0)
    if kept is not None:
        kept += (tl.load(kept_first + segment) + (start - origin) // KEPT) * states
    for low in tl.range(0, count, AHEAD):
        if kept is not None:
            tl.store(kept + low // KEPT * states + at, h, mask=exists & (n[:, None] < tl.where(low % KEPT == 0, BN, 0)))
        loaded, outs = (), ()
        for i in tl.static_range(AHEAD):
            loaded += (_vector(delta, low + i, delta_step, c, count, room, SUMS),)
            loaded += (_vector(u, low + i, u_step, c, count, room, SUMS),)
            loaded += (0 if z is None else _vector(z, low + i, z_step, c, count, room, SUMS),)
        for i in tl.static_range(AHEAD):
            dt = _time_step(loaded[3 * i], offset, c < tl.where(low + i < count, room, 0), SOFTPLUS)
            x, weights = loaded[3 * i + 1], _vector(B, low + i, B_step, n, count, n_states, SUMS)
            h = _grown(h, dt, rate, dt * x, weights)
            readout = _vector(C, low + i, C_step, n, count, n_states, SUMS)
            out = tl.sum(h * readout[:, None], 0) + skip * x
            if z is not None:
                out *= loaded[3 * i + 2] * sigmoid(loaded[3 * i + 2])
            outs += (out,)
        for i in tl.static_range(AHEAD):  # behind the loads, which could not be moved up past a store
            there = c < tl.where(low + i < count, room, 0)
            tl.store(y + (low + i) * channels + c, outs[i].to(y.dtype.element_ty), mask=there)
    last = tl.where(start + count == end, tl.where(count > 0, BN, 0), 0)
    tl.store(final + segment * states + at, h, mask=exists & (n[:, None] < last))


@triton.jit
@no_type_check
def _returns_kernel(
    delta, A, C, z, bias, dy, returns, decays, starts, stops, segments, bounds, length, channels, per_group, n_states,
    delta_row, delta_step, C_row, C_step, C_group, z_row, z_step, dy_row, dy_step,
    SOFTPLUS: tl.constexpr, AHEAD: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Gradient that each piece sends to the state that enters it, and its decay; not of the first of a segment."""
    place = _place(starts, stops, segments, bounds, channels, per_group, n_states, BN, BD)
    piece, start, count, _, origin, _, group, room, first, at, exists = place
    count = tl.where(start == origin, 0, count)
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    delta = row_at(delta, start, length, delta_row, delta_step) + first
    dy = row_at(dy, start, length, dy_row, dy_step) + first
    C = row_at(C, start, length, C_row, C_step) + group * C_group
    if z is not None:
        z = row_at(z, start, length, z_row, z_step) + first
    rate, offset = tl.load(A + at, mask=exists, other=0), _parameter(bias, first, c, room, SUMS)
    dh, total = tl.zeros([BN, BD], SUMS), tl.zeros([BD], SUMS)
    groups = tl.cdiv(count, AHEAD)
    for back in tl.range(groups):
        low = (groups - 1 - back) * AHEAD
        loaded = ()
        for i in tl.static_range(AHEAD):
            t = low + (AHEAD - 1 - i)
            loaded += (_vector(delta, t, delta_step, c, count, room, SUMS),)
            loaded += (_vector(dy, t, dy_step, c, count, room, SUMS),)
            loaded += (0 if z is None else _vector(z, t, z_step, c, count, room, SUMS),)
        for i in tl.static_range(AHEAD):
            t = low + (AHEAD - 1 - i)
            dt = _time_step(loaded[3 * i], offset, c < tl.where(t < count, room, 0), SOFTPLUS)
            g, readout = loaded[3 * i + 1], _vector(C, t, C_step, n, count, n_states, SUMS)
            if z is not None:
                g *= loaded[3 * i + 2] * sigmoid(loaded[3 * i + 2])
            dh = tl.exp2(dt[None, :] * rate) * (dh + g[None, :] * readout[:, None])
            total += dt
    base = piece * n_states * channels
    tl.store(returns + base + at, dh, mask=exists)
    tl.store(decays + base + at, tl.exp2(total[None, :] * rate), mask=exists)


@triton.jit
@no_type_check
def _gradients_kernel(
    u, delta, A, B, C, D, z, bias, dy, kept, kept_first, leaving,
    du, ddelta, dz, dA, dB, dC, dD, dbias, dinitial,
    starts, stops, segments, bounds, length, positions, channels, per_group, groups, n_states,
    u_row, u_step, delta_row, delta_step, B_row, B_step, B_group, C_row, C_step, C_group,
    z_row, z_step, dy_row, dy_step,
    SOFTPLUS: tl.constexpr, AHEAD: tl.constexpr, KEPT: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """All gradients of each piece from the states that were kept and the gradient of the one that leaves it."""
    place = _place(starts, stops, segments, bounds, channels, per_group, n_states, BN, BD)
    piece, start, count, segment, origin, _, group, room, first, at, exists = place
    c, n = tl.arange(0, BD), tl.arange(0, BN)
    u = row_at(u, start, length, u_row, u_step) + first
    delta = row_at(delta, start, length, delta_row, delta_step) + first
    B = row_at(B, start, length, B_row, B_step) + group * B_group
    C = row_at(C, start, length, C_row, C_step) + group * C_group
    dy = row_at(dy, start, length, dy_row, dy_step) + first
    du += start * channels + first
    ddelta += start * channels + first
    if z is not None:
        z = row_at(z, start, length, z_row, z_step) + first
        dz += start * channels + first
    part = (tl.program_id(0) % tl.cdiv(per_group, BD)).to(tl.int64) * positions + start
    dB += (part * groups + group) * n_states
    dC += (part * groups + group) * n_states
    whole, ln2 = c < room, tl.full([BD], 0.6931471805599453, SUMS)
    rate, offset = tl.load(A + at, mask=exists, other=0), _parameter(bias, first, c, room, SUMS)
    skip = _parameter(D, first, c, room, SUMS)
    states = tl.cast(n_states, tl.int64) * channels
    kept += (tl.load(kept_first + segment) + (start - origin) // KEPT) * states
    dh = tl.load(leaving + piece * states + at, mask=exists, other=0)
    drate, dskip, doffset = tl.zeros([BN, BD], SUMS), tl.zeros([BD], SUMS), tl.zeros([BD], SUMS)
    walks = tl.cdiv(count, AHEAD)
    for back in tl.range(walks):
        low = (walks - 1 - back) * AHEAD
        h = tl.load(kept + low // KEPT * states + at, mask=exists, other=0)
        for t in tl.range(low // KEPT * KEPT, low):
            dt = _time_step(_vector(delta, t, delta_step, c, count, room, SUMS), offset, whole, SOFTPLUS)
            inflow = dt * _vector(u, t, u_step, c, count, room, SUMS)
            h = _grown(h, dt, rate, inflow, _vector(B, t, B_step, n, count, n_states, SUMS))
        before, decays = (h,), ()
        for i in tl.static_range(AHEAD):
            t = low + i
            mask = c < tl.where(t < count, room, 0)
            dt = _time_step(_vector(delta, t, delta_step, c, count, room, SUMS), offset, mask, SOFTPLUS)
            inflow = dt * _vector(u, t, u_step, c, count, room, SUMS)
            decay = tl.exp2(dt[None, :] * rate)
            h = decay * h + inflow[None, :] * _vector(B, t, B_step, n, count, n_states, SUMS)[:, None]
            before += (h,)
            decays += (decay,)
        for i in tl.static_range(AHEAD):
            t = low + (AHEAD - 1 - i)
            mask, live = c < tl.where(t < count, room, 0), n < tl.where(t < count, n_states, 0)
            given = _vector(delta, t, delta_step, c, count, room, SUMS)
            dt, slope = _time_step(given, offset, mask, SOFTPLUS), _slope(given, offset, SOFTPLUS)
            x = _vector(u, t, u_step, c, count, room, SUMS)
            weights = _vector(B, t, B_step, n, count, n_states, SUMS)
            readout = _vector(C, t, C_step, n, count, n_states, SUMS)
            g = _vector(dy, t, dy_step, c, count, room, SUMS)
            if z is not None:
                gate = _vector(z, t, z_step, c, count, room, SUMS)
                open_ = sigmoid(gate)
                out = tl.sum(before[AHEAD - i] * readout[:, None], 0) + skip * x
                dgate = g * out * open_ * (1 + gate * (1 - open_))
                tl.store(dz + t * channels + c, dgate.to(dz.dtype.element_ty), mask=mask)
                g *= gate * open_
            dh += g[None, :] * readout[:, None]
            faded = dh * decays[AHEAD - 1 - i] * before[AHEAD - 1 - i]
            written = tl.sum(dh * weights[:, None], 0)
            slide = (written * x + tl.sum(faded * rate, 0) * ln2) * slope
            tl.store(du + t * channels + c, (written * dt + skip * g).to(du.dtype.element_ty), mask=mask)
            tl.store(ddelta + t * channels + c, slide.to(ddelta.dtype.element_ty), mask=mask)
            tl.store(dB + t * groups * n_states + n, tl.sum(dh * (dt * x)[None, :], 1), mask=live)
            tl.store(dC + t * groups * n_states + n, tl.sum(before[AHEAD - i] * g[None, :], 1), mask=live)
            drate += faded * dt[None, :]
            dskip += g * x
            doffset += tl.where(mask, slide, 0.0)
            dh *= decays[AHEAD - 1 - i]
    tl.store(dA + piece * states + at, drate, mask=exists)
    last = tl.where(start == origin, tl.where(count > 0, BN, 0), 0)
    tl.store(dinitial + segment * states + at, dh, mask=exists & (n[:, None] < last))
    row = piece * channels + first
    tl.store(dD + row + c, dskip, mask=whole)
    tl.store(dbias + row + c, doffset, mask=whole)


class _Layout:
    """The inputs of the kernels as these expect them, B and C wide (every lane needs all of them), and the pieces."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> None:
        self.B, self.C = (dense_rows((w if w.dim() == 4 else w[:, :, None]).to(sums_dtype(u))) for w in (B, C))
        self.A = (A.T.to(sums_dtype(u)) * math.log2(math.e)).contiguous()
        self.groups, (self.channels, self.n_states) = self.B.shape[2], A.shape
        self.per_group, (batch, self.length, _) = self.channels // self.groups, u.shape
        self.sums = TYPES[sums_dtype(u)]
        piece = _piece(batch * self.length, self.length, self.groups * self.tiles(STATES)[1])
        self.pieces = Chunks.cut(cu_seqlens, u, piece)
        self.whole = cu_seqlens is None and piece >= self.length
        self.kept_first = Chunks.cut(cu_seqlens, u, KEPT).first
        self.where = (*self.pieces[:4], self.length)
        self.sizes = (self.channels, self.per_group, self.n_states)

    def tiles(self, states: int) -> tuple[tuple[Any, ...], int]:
        """Constants of programs that hold so many states, and the blocks of channels in each group."""
        BN = triton.next_power_of_2(self.n_states)
        BD = min(max(states // BN, 1), 64, triton.next_power_of_2(self.per_group))
        return (BN, BD, self.sums), triton.cdiv(self.per_group, BD)

    def grid(self, blocks: int) -> tuple[int]:
        """One program for every piece and block of channels."""
        return (len(self.pieces.starts) * self.groups * blocks,)

    def states(self, like: Tensor) -> Tensor:
        """Room for one state per piece, (d_state, channels) each."""
        return like.new_empty(len(self.pieces.starts), self.n_states * self.channels, dtype=sums_dtype(like))

    def given(self, state: Tensor | None, like: Tensor) -> Tensor:
        """A state per segment, (d_state, channels) each, for pieces that are whole segments."""
        return torch.zeros_like(self.states(like)) if state is None else _turned(state, sums_dtype(like))

    def turned_back(self, states: Tensor) -> Tensor:
        """(segments, d_state * channels) to (segments, channels, d_state)."""
        turned: Tensor = states.unflatten(1, (self.n_states, self.channels)).mT
        return turned


def _piece(tokens: int, length: int, blocks: int) -> int:
    """Steps of a piece: as many as leave :data:`PROGRAMS` programs for ``blocks`` of channels, a power of two."""
    wanted = triton.next_power_of_2(triton.cdiv(tokens * blocks, PROGRAMS))
    return int(max(LEAST_PIECE, min(wanted, triton.next_power_of_2(length))))


def _steps(x: Tensor | None) -> tuple[int, ...]:
    """Strides of batch and step, and of the group where there is one."""
    return (0, 0) if x is None else x.stride()[:-1]


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else dense_rows(x)


def _turned(state: Tensor, dtype: torch.dtype) -> Tensor:
    """(segments, channels, d_state) to (segments, d_state * channels)."""
    return state.to(dtype).mT.flatten(1).contiguous()


def selective_scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    _, delta, *_, delta_bias, delta_softplus, _, _ = arguments
    if readable(delta):
        time_step(delta, delta_bias, delta_softplus, sums_dtype(delta))
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in arguments if isinstance(t, Tensor))
    y, final_state, _ = _forward(*arguments, learning)
    return y, final_state


@operator("selective_scan_triton", lambda *a: _outputs(a[0], a[2], *a[10:]))
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    learning: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the final state, and every KEPT-th state (none unless learning)."""
    y, final, kept = _outputs(u, A, cu_seqlens, learning)
    if u.numel() == 0:
        return y, final.copy_(final if initial_state is None else initial_state), kept
    lay = _Layout(u, A, B, C, cu_seqlens)
    tiles, blocks = lay.tiles(STATES)
    u, delta, z, last = dense_rows(u), dense_rows(delta), _dense(z), torch.empty_like(final).flatten(1)
    where, strides = (*lay.where, *lay.sizes), (*_steps(u), *_steps(delta), *_steps(lay.B))
    with on_device(u):
        if lay.whole:
            entering = lay.given(initial_state, u)
        else:
            entering, decays = lay.states(u), lay.states(u)
            _ends_kernel[lay.grid(blocks)](
                u, delta, lay.A, lay.B, delta_bias, entering, decays, *where, *strides,
                delta_softplus, AHEAD, *tiles, num_warps=1,
            )  # fmt: skip
            given = None if initial_state is None else _turned(initial_state, entering.dtype)
            join(decays, entering, given, lay.pieces.first)
        _outputs_kernel[lay.grid(blocks)](
            u, delta, lay.A, lay.B, lay.C, D, z, delta_bias, entering, y, last, kept if learning else None,
            lay.kept_first, *where, *strides, *_steps(lay.C), *_steps(z),
            delta_softplus, AHEAD, KEPT, *tiles, num_warps=1,
        )  # fmt: skip
    return y, final.copy_(lay.turned_back(last)), kept


@operator("selective_scan_triton_backward", lambda *a: _gradients(a[0], a[2], a[3], a[6], a[9]))
def _backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    cu_seqlens: Tensor | None,
    kept: Tensor,
    dy: Tensor,
    dfinal: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, those of parameters in wide sums."""
    gradients = _gradients(u, A, B, z, cu_seqlens)
    du, ddelta, _, _, _, _, dz, _, dinitial = gradients
    if u.numel() == 0:
        for gradient in gradients:
            gradient.zero_()
        return gradients
    lay, (batch, length, channels) = _Layout(u, A, B, C, cu_seqlens), u.shape
    tiles, blocks = lay.tiles(STATES_BACKWARDS)
    u, delta, z, dy = dense_rows(u), dense_rows(delta), _dense(z), dense_rows(dy)
    dA, first = lay.states(u), torch.empty_like(dinitial).flatten(1)
    dB, dC = dA.new_empty(2, blocks, batch * length, lay.groups, lay.n_states)
    dD, dbias = dA.new_empty(2, len(dA), channels)
    ends = (*_steps(z), *_steps(dy), delta_softplus, AHEAD)
    with on_device(u):
        if lay.whole:
            leaving = lay.given(dfinal, u)
        else:
            leaving, decays = lay.states(u), lay.states(u)
            wide, few = lay.tiles(STATES)
            _returns_kernel[lay.grid(few)](
                delta, lay.A, lay.C, z, delta_bias, dy, leaving, decays, *lay.where, *lay.sizes,
                *_steps(delta), *_steps(lay.C), *ends, *wide, num_warps=1,
            )  # fmt: skip
            given = None if dfinal is None else _turned(dfinal, leaving.dtype)
            join(decays, leaving, given, lay.pieces.first, backwards=True)
        _gradients_kernel[lay.grid(blocks)](
            u, delta, lay.A, lay.B, lay.C, D, z, delta_bias, dy, kept, lay.kept_first, leaving,
            du, ddelta, dz, dA, dB, dC, dD, dbias, first,
            *lay.where, batch * length, *lay.sizes[:2], lay.groups, lay.n_states,
            *_steps(u), *_steps(delta), *_steps(lay.B), *_steps(lay.C), *ends, KEPT, *tiles, num_warps=1,
        )  # fmt: skip
    dinitial.copy_(lay.turned_back(first))
    rates = dA.sum(0).unflatten(0, (lay.n_states, channels)).T.contiguous()
    weights = (t.sum(0).reshape(B.shape).to(B.dtype) for t in (dB, dC))
    return (du, ddelta, rates, *weights, dD.sum(0), dz, dbias.sum(0), dinitial)


def _outputs(u: Tensor, A: Tensor, cu_seqlens: Tensor | None, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, channels), n_states, dtype = u.shape, A.shape[1], sums_dtype(u)
    segments = count_segments(cu_seqlens, batch)
    kept = batch * -(-length // KEPT) if cu_seqlens is None else length // KEPT + segments
    return (
        u.new_empty(u.shape),
        u.new_zeros(segments, channels, n_states, dtype=dtype),
        u.new_empty(kept if learning else 0, n_states * channels, dtype=dtype),
    )


def _gradients(
    u: Tensor, A: Tensor, B: Tensor, z: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (channels, n_states), dtype = A.shape, sums_dtype(u)
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape),
        u.new_empty(channels, n_states, dtype=dtype),
        B.new_empty(B.shape),
        B.new_empty(B.shape),
        u.new_empty(channels, dtype=dtype),
        u.new_empty(0 if z is None else u.shape),
        u.new_empty(channels, dtype=dtype),
        u.new_empty(count_segments(cu_seqlens, u.shape[0]), channels, n_states, dtype=dtype),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    *tensors, ctx.delta_softplus, initial_state, cu_seqlens, _ = inputs
    ctx.save_for_backward(*tensors, initial_state, cu_seqlens, output[2])


def _differentiate(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    *tensors, initial_state, cu_seqlens, kept = ctx.saved_tensors
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    gradients = _backward(*tensors, ctx.delta_softplus, cu_seqlens, kept, dy, dfinal)
    cast = typed_like((*tensors, initial_state), gradients)
    return (*cast[:8], None, cast[8], None, None)


_forward.differentiate(_setup_context, _differentiate)
