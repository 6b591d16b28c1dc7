"""The selective scan in Triton: chunks side by side, the states between them, then the chunks again from these.

A program holds the states of a block of channels in registers, (d_state, channels), and walks through one chunk. The
backward walks the chunks from right to left, from the gradient of the state that leaves each; inside a chunk it
recomputes the states, ``SUB`` at a time in registers. Stored are the states that enter the chunks and, for the
backward, one part of the sums over channels for each block of channels; all parts are added in a fixed order.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..checks import readable
from ..linear_scan.triton import join
from ..native import dense_rows
from ..triton_functions import TYPES, row_at, sigmoid
from ..triton_support import Chunks, count_segments, on_device, sums_dtype
from .reference import time_step

CHUNK = 32
SUB = 8
STATES, STATES_BACKWARDS = 512, 256  # in registers; the backward keeps those of SUB steps


@triton.jit
@no_type_check
def _place(starts, stops, length, channels, per_group, n_states, BN: tl.constexpr, BD: tl.constexpr):
    """Start of the chunk, its steps, group, first channel of this program, how many channels exist, state offsets."""
    start = tl.load(starts + tl.program_id(0))
    count = (tl.load(stops + tl.program_id(0)) - start).to(tl.int32)
    blocks = tl.cdiv(per_group, BD)
    group = tl.program_id(1) // blocks
    block = (tl.program_id(1) % blocks) * BD
    d, n = group * per_group + block + tl.arange(0, BD), tl.arange(0, BN)
    exists = (n < n_states)[:, None] & (tl.arange(0, BD) < per_group - block)[None, :]
    return start, count, group, per_group - block, d, n[:, None] * channels + d[None, :], exists


@triton.jit
@no_type_check
def _time_step(delta, bias, mask, SOFTPLUS: tl.constexpr, SUMS: tl.constexpr):
    """The time step (zero where masked) and its slope in ``delta``."""
    x = tl.load(delta, mask=mask, other=0).to(SUMS) + bias
    slope = tl.full(x.shape, 1, SUMS)
    if SOFTPLUS:
        slope = sigmoid(x)
        small = tl.exp(-tl.abs(x))
        near_one = 1 + small  # log(1 + small), exact where 1 + small is rounded
        log = tl.log(near_one) * (small / tl.where(near_one == 1, 1, near_one - 1))
        x = tl.maximum(x, 0.0) + tl.where(near_one == 1, small, log)
    return tl.where(mask, x, 0.0), slope


@triton.jit
@no_type_check
def _parameter(values, d, mask, SUMS: tl.constexpr):
    """Values of the channels d, zeros without any."""
    if values is None:
        found = tl.zeros(d.shape, SUMS)
    else:
        found = tl.load(values + d, mask=mask, other=0).to(SUMS)
    return found


@triton.jit
@no_type_check
def _ends_kernel(
    u, delta, A, B, bias, ends, decays, starts, stops, length, channels, per_group, n_states,
    u_row, u_step, delta_row, delta_step, B_row, B_step, B_group,
    SOFTPLUS: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """What each chunk makes of a state of zero, and its decay."""
    place = _place(starts, stops, length, channels, per_group, n_states, BN, BD)
    start, count, group, room, d, at, exists = place
    mask, n = tl.arange(0, BD) < room, tl.arange(0, BN)
    u, delta = row_at(u, start, length, u_row, u_step), row_at(delta, start, length, delta_row, delta_step)
    B = row_at(B, start, length, B_row, B_step) + group * B_group
    rate, offset = tl.load(A + at, mask=exists, other=0).to(SUMS), _parameter(bias, d, mask, SUMS)
    h, total = tl.zeros([BN, BD], SUMS), tl.zeros([BD], SUMS)
    for t in tl.range(count):
        dt, _ = _time_step(delta + t * delta_step + d, offset, mask, SOFTPLUS, SUMS)
        inflow = dt * tl.load(u + t * u_step + d, mask=mask, other=0).to(SUMS)
        weights = tl.load(B + t * B_step + n, mask=n < n_states, other=0).to(SUMS)
        h = tl.exp(dt[None, :] * rate) * h + inflow[None, :] * weights[:, None]
        total += dt
    base = tl.program_id(0).to(tl.int64) * n_states * channels
    tl.store(ends + base + at, h, mask=exists)
    tl.store(decays + base + at, tl.exp(total[None, :] * rate), mask=exists)


@triton.jit
@no_type_check
def _outputs_kernel(
    u, delta, A, B, C, D, z, bias, entering, y, starts, stops, length, channels, per_group, n_states,
    u_row, u_step, delta_row, delta_step, B_row, B_step, B_group, C_row, C_step, C_group, z_row, z_step,
    SOFTPLUS: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """All outputs of each chunk from the state that enters it."""
    place = _place(starts, stops, length, channels, per_group, n_states, BN, BD)
    start, count, group, room, d, at, exists = place
    mask, n = tl.arange(0, BD) < room, tl.arange(0, BN)
    u, delta = row_at(u, start, length, u_row, u_step), row_at(delta, start, length, delta_row, delta_step)
    B = row_at(B, start, length, B_row, B_step) + group * B_group
    C = row_at(C, start, length, C_row, C_step) + group * C_group
    if z is not None:
        z = row_at(z, start, length, z_row, z_step)
    y += start * channels
    rate, offset = tl.load(A + at, mask=exists, other=0).to(SUMS), _parameter(bias, d, mask, SUMS)
    skip = _parameter(D, d, mask, SUMS)
    h = tl.load(entering + tl.program_id(0).to(tl.int64) * n_states * channels + at, mask=exists, other=0)
    for t in tl.range(count):
        dt, _ = _time_step(delta + t * delta_step + d, offset, mask, SOFTPLUS, SUMS)
        x = tl.load(u + t * u_step + d, mask=mask, other=0).to(SUMS)
        weights = tl.load(B + t * B_step + n, mask=n < n_states, other=0).to(SUMS)
        readout = tl.load(C + t * C_step + n, mask=n < n_states, other=0).to(SUMS)
        h = tl.exp(dt[None, :] * rate) * h + (dt * x)[None, :] * weights[:, None]
        out = tl.sum(h * readout[:, None], 0) + skip * x
        if z is not None:
            gate = tl.load(z + t * z_step + d, mask=mask, other=0).to(SUMS)
            out *= gate * sigmoid(gate)
        tl.store(y + t * channels + d, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
@no_type_check
def _returns_kernel(
    delta, A, C, z, bias, dy, returns, decays, starts, stops, length, channels, per_group, n_states,
    delta_row, delta_step, C_row, C_step, C_group, z_row, z_step, dy_row, dy_step,
    SOFTPLUS: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Gradient that the outputs of each chunk send to the state that enters it, and the decay of the chunk."""
    place = _place(starts, stops, length, channels, per_group, n_states, BN, BD)
    start, count, group, room, d, at, exists = place
    mask, n = tl.arange(0, BD) < room, tl.arange(0, BN)
    delta, dy = row_at(delta, start, length, delta_row, delta_step), row_at(dy, start, length, dy_row, dy_step)
    C = row_at(C, start, length, C_row, C_step) + group * C_group
    if z is not None:
        z = row_at(z, start, length, z_row, z_step)
    rate, offset = tl.load(A + at, mask=exists, other=0).to(SUMS), _parameter(bias, d, mask, SUMS)
    dh, total = tl.zeros([BN, BD], SUMS), tl.zeros([BD], SUMS)
    for i in tl.range(count):
        t = count - 1 - i
        dt, _ = _time_step(delta + t * delta_step + d, offset, mask, SOFTPLUS, SUMS)
        g = tl.load(dy + t * dy_step + d, mask=mask, other=0).to(SUMS)
        if z is not None:
            gate = tl.load(z + t * z_step + d, mask=mask, other=0).to(SUMS)
            g *= gate * sigmoid(gate)
        readout = tl.load(C + t * C_step + n, mask=n < n_states, other=0).to(SUMS)
        dh = tl.exp(dt[None, :] * rate) * (dh + g[None, :] * readout[:, None])
        total += dt
    base = tl.program_id(0).to(tl.int64) * n_states * channels
    tl.store(returns + base + at, dh, mask=exists)
    tl.store(decays + base + at, tl.exp(total[None, :] * rate), mask=exists)


@triton.jit
@no_type_check
def _gradients_kernel(
    u, delta, A, B, C, D, z, bias, dy, entering, leaving,
    du, ddelta, dz, dA, dB, dC, dD, dbias,
    starts, stops, length, positions, channels, per_group, groups, n_states,
    u_row, u_step, delta_row, delta_step, B_row, B_step, B_group, C_row, C_step, C_group,
    z_row, z_step, dy_row, dy_step,
    SOFTPLUS: tl.constexpr, SUB: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """All gradients of each chunk from the state that enters it and the gradient of the one that leaves it."""
    place = _place(starts, stops, length, channels, per_group, n_states, BN, BD)
    start, count, group, room, d, at, exists = place
    n = tl.arange(0, BN)
    u, delta = row_at(u, start, length, u_row, u_step), row_at(delta, start, length, delta_row, delta_step)
    B = row_at(B, start, length, B_row, B_step) + group * B_group
    C = row_at(C, start, length, C_row, C_step) + group * C_group
    dy = row_at(dy, start, length, dy_row, dy_step)
    du += start * channels
    ddelta += start * channels
    if z is not None:
        z = row_at(z, start, length, z_row, z_step)
        dz += start * channels
    part = (tl.program_id(1) % tl.cdiv(per_group, BD)).to(tl.int64) * positions + start
    dB += (part * groups + group) * n_states
    dC += (part * groups + group) * n_states
    whole = tl.arange(0, BD) < room
    rate, offset = tl.load(A + at, mask=exists, other=0).to(SUMS), _parameter(bias, d, whole, SUMS)
    skip = _parameter(D, d, whole, SUMS)
    base = tl.program_id(0).to(tl.int64) * n_states * channels
    first = tl.load(entering + base + at, mask=exists, other=0)
    dh = tl.load(leaving + base + at, mask=exists, other=0)
    drate, dskip, doffset = tl.zeros([BN, BD], SUMS), tl.zeros([BD], SUMS), tl.zeros([BD], SUMS)
    subs = tl.cdiv(count, SUB)
    for sub in tl.range(subs):
        low = (subs - 1 - sub) * SUB
        h = first
        for t in tl.range(low):
            dt, _ = _time_step(delta + t * delta_step + d, offset, whole, SOFTPLUS, SUMS)
            inflow = dt * tl.load(u + t * u_step + d, mask=whole, other=0).to(SUMS)
            weights = tl.load(B + t * B_step + n, mask=n < n_states, other=0).to(SUMS)
            h = tl.exp(dt[None, :] * rate) * h + inflow[None, :] * weights[:, None]
        states = (h,)
        for i in tl.static_range(SUB):
            t = low + i
            mask = tl.arange(0, BD) < tl.where(t < count, room, 0)
            dt, _ = _time_step(delta + t * delta_step + d, offset, mask, SOFTPLUS, SUMS)
            inflow = dt * tl.load(u + t * u_step + d, mask=mask, other=0).to(SUMS)
            weights = tl.load(B + t * B_step + n, mask=n < tl.where(t < count, n_states, 0), other=0).to(SUMS)
            h = tl.exp(dt[None, :] * rate) * h + inflow[None, :] * weights[:, None]
            states += (h,)
        for i in tl.static_range(SUB):
            t = low + (SUB - 1 - i)
            mask, live = tl.arange(0, BD) < tl.where(t < count, room, 0), n < tl.where(t < count, n_states, 0)
            dt, slope = _time_step(delta + t * delta_step + d, offset, mask, SOFTPLUS, SUMS)
            x = tl.load(u + t * u_step + d, mask=mask, other=0).to(SUMS)
            weights = tl.load(B + t * B_step + n, mask=live, other=0).to(SUMS)
            readout = tl.load(C + t * C_step + n, mask=live, other=0).to(SUMS)
            g = tl.load(dy + t * dy_step + d, mask=mask, other=0).to(SUMS)
            if z is not None:
                gate = tl.load(z + t * z_step + d, mask=mask, other=0).to(SUMS)
                open_ = sigmoid(gate)
                out = tl.sum(states[SUB - i] * readout[:, None], 0) + skip * x
                dgate = g * out * open_ * (1 + gate * (1 - open_))
                tl.store(dz + t * channels + d, dgate.to(dz.dtype.element_ty), mask=mask)
                g *= gate * open_
            dh += g[None, :] * readout[:, None]
            decay = tl.exp(dt[None, :] * rate)
            faded = dh * decay * states[SUB - 1 - i]
            written = tl.sum(dh * weights[:, None], 0)
            slide = (written * x + tl.sum(faded * rate, 0)) * slope
            tl.store(du + t * channels + d, (written * dt + skip * g).to(du.dtype.element_ty), mask=mask)
            tl.store(ddelta + t * channels + d, slide.to(ddelta.dtype.element_ty), mask=mask)
            tl.store(dB + t * groups * n_states + n, tl.sum(dh * (dt * x)[None, :], 1), mask=live)
            tl.store(dC + t * groups * n_states + n, tl.sum(states[SUB - i] * g[None, :], 1), mask=live)
            drate += faded * dt[None, :]
            dskip += g * x
            doffset += tl.where(mask, slide, 0.0)
            dh *= decay
    tl.store(dA + base + at, drate, mask=exists)
    row = tl.program_id(0).to(tl.int64) * channels
    tl.store(dD + row + d, dskip, mask=whole)
    tl.store(dbias + row + d, doffset, mask=whole)


class _Layout:
    """The inputs of the kernels in the layouts that these expect, and the sizes of the blocks."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None, states: int) -> None:
        self.B, self.C = (dense_rows(w if w.dim() == 4 else w[:, :, None]) for w in (B, C))
        self.A = A.T.contiguous()
        self.groups, (self.channels, self.n_states) = self.B.shape[2], A.shape
        self.cut = Chunks.cut(cu_seqlens, u, CHUNK)
        per_group, BN = self.channels // self.groups, triton.next_power_of_2(self.n_states)
        BD = min(max(states // BN, 1), 64, triton.next_power_of_2(per_group))
        self.blocks, self.length = triton.cdiv(per_group, BD), u.shape[1]
        self.grid = (len(self.cut.starts), self.groups * self.blocks)
        self.sizes = (self.length, self.channels, per_group, self.n_states)
        self.tiles = (BN, BD, TYPES[sums_dtype(u)])

    def states(self, like: Tensor) -> Tensor:
        """Room for one state per chunk, (d_state, channels) each."""
        return like.new_empty(len(self.cut.starts), self.n_states * self.channels, dtype=sums_dtype(like))


def _steps(x: Tensor | None) -> tuple[int, ...]:
    """Strides of batch and step, and of the group where there is one."""
    return (0, 0) if x is None else x.stride()[:-1]


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else dense_rows(x)


def _turned(state: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(segments, channels, d_state) to (segments, d_state * channels)."""
    return None if state is None else state.to(dtype).mT.flatten(1).contiguous()


def selective_scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    _, delta, *_, delta_bias, delta_softplus, _, _ = arguments
    if readable(delta):
        time_step(delta, delta_bias, delta_softplus, sums_dtype(delta))
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in arguments if isinstance(t, Tensor))
    y, final_state, _ = _forward(*arguments, learning)
    return y, final_state


@torch.library.custom_op("seqconv::selective_scan_triton", mutates_args=())
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
    """The output, the final state, and the states that enter the chunks (none unless learning)."""
    y, final, entering = _outputs(u, A, cu_seqlens, learning)
    if u.numel() == 0:
        return y, final.copy_(final if initial_state is None else initial_state), entering
    lay = _Layout(u, A, B, C, cu_seqlens, STATES)
    u, delta, z = dense_rows(u), dense_rows(delta), _dense(z)
    ends, decays = lay.states(u), lay.states(u)
    where, strides = (*lay.cut[:2], *lay.sizes), (*_steps(u), *_steps(delta), *_steps(lay.B))
    with on_device(u):
        _ends_kernel[lay.grid](
            u, delta, lay.A, lay.B, delta_bias, ends, decays, *where, *strides, delta_softplus, *lay.tiles, num_warps=1
        )
        last = join(decays, ends, _turned(initial_state, ends.dtype), lay.cut.first)
        _outputs_kernel[lay.grid](
            u, delta, lay.A, lay.B, lay.C, D, z, delta_bias, ends, y, *where,
            *strides, *_steps(lay.C), *_steps(z), delta_softplus, *lay.tiles, num_warps=1,
        )  # fmt: skip
    final.copy_(last.unflatten(1, (lay.n_states, lay.channels)).mT)
    return y, final, ends if learning else entering


@torch.library.custom_op("seqconv::selective_scan_triton_backward", mutates_args=())
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
    entering: Tensor,
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
    lay, (batch, length, channels) = _Layout(u, A, B, C, cu_seqlens, STATES_BACKWARDS), u.shape
    u, delta, z, dy = dense_rows(u), dense_rows(delta), _dense(z), dense_rows(dy)
    returns, decays, dA = (lay.states(u) for _ in range(3))
    dB, dC = returns.new_empty(2, lay.blocks, batch * length, lay.groups, lay.n_states)
    dD, dbias = returns.new_empty(2, len(lay.cut.starts), channels)
    where = lay.cut[:2]
    ends = (*_steps(z), *_steps(dy), delta_softplus)
    _, _, per_group, n_states = lay.sizes
    with on_device(u):
        _returns_kernel[lay.grid](
            delta, lay.A, lay.C, z, delta_bias, dy, returns, decays, *where, *lay.sizes,
            *_steps(delta), *_steps(lay.C), *ends, *lay.tiles, num_warps=1,
        )  # fmt: skip
        first = join(decays, returns, _turned(dfinal, returns.dtype), lay.cut.first, backwards=True)
        _gradients_kernel[lay.grid](
            u, delta, lay.A, lay.B, lay.C, D, z, delta_bias, dy, entering, returns,
            du, ddelta, dz, dA, dB, dC, dD, dbias,
            *where, length, batch * length, channels, per_group, lay.groups, n_states,
            *_steps(u), *_steps(delta), *_steps(lay.B), *_steps(lay.C), *ends, SUB, *lay.tiles, num_warps=1,
        )  # fmt: skip
    dinitial.copy_(first.unflatten(1, (n_states, channels)).mT)
    rates = dA.sum(0).unflatten(0, (n_states, channels)).T.contiguous()
    weights = (t.sum(0).reshape(B.shape).to(B.dtype) for t in (dB, dC))
    return (du, ddelta, rates, *weights, dD.sum(0), dz, dbias.sum(0), dinitial)


def _outputs(u: Tensor, A: Tensor, cu_seqlens: Tensor | None, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, channels), n_states, dtype = u.shape, A.shape[1], sums_dtype(u)
    segments = count_segments(cu_seqlens, batch)
    chunks = batch * -(-length // CHUNK) if cu_seqlens is None else length // CHUNK + segments
    return (
        u.new_empty(u.shape),
        u.new_zeros(segments, channels, n_states, dtype=dtype),
        u.new_empty(chunks if learning else 0, n_states * channels, dtype=dtype),
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


_forward.register_fake(lambda *a: _outputs(a[0], a[2], *a[10:]))
_backward.register_fake(lambda *a: _gradients(a[0], a[2], a[3], a[6], a[9]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    *tensors, ctx.delta_softplus, initial_state, cu_seqlens, _ = inputs
    ctx.save_for_backward(*tensors, initial_state, cu_seqlens, output[2])


def _differentiate(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    *tensors, initial_state, cu_seqlens, entering = ctx.saved_tensors
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    gradients = _backward(*tensors, ctx.delta_softplus, cu_seqlens, entering, dy, dfinal)
    cast = [None if t is None else g.to(t.dtype) for t, g in zip((*tensors, initial_state), gradients, strict=True)]
    return (*cast[:8], None, cast[8], None, None)


_forward.register_autograd(_differentiate, setup_context=_setup_context)
