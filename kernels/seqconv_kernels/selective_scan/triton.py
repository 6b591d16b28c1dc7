"""The selective scan in Triton: a chunked scan whose states never leave the registers between two steps.

Forward, per channel c and state n, with ``dt = softplus(delta + bias)``::

    h[t] = a[t] h[t-1] + dt[t] u[t] B[t],    a[t] = exp(dt[t] A),    y[t] = (C[t] . h[t] + D u[t]) silu(z[t])

Backward, the adjoint recurrence with ``g = dy silu(z)`` and ``dh[t] = dL/dh[t]`` on all paths::

    dh[t] = C[t] g[t] + a[t+1] dh[t+1]
    dC[t] = sum_c g h[t],         dB[t] = sum_c dh[t] dt u,           dz[t] = dy (C . h[t] + D u) silu'(z)
    du[t] = dt (dh[t] . B) + D g,                                     dD = sum_t g u
    ddt[t] = u (dh[t] . B) + sum_n A dh[t] a[t] h[t-1],               ddelta = ddt softplus'(delta + bias)
    dA = sum_t dt dh[t] a[t] h[t-1],                                  dinitial = a[0] dh[0]

A program is one warp: it owns a chunk and a block of channels. Where batch and channels alone fill the GPU, chunks are
whole sequences and one kernel does the scan. Otherwise all chunks but the last of a sequence are scanned once more
beforehand (``chunk_state``), for the state that enters the next one (``state_passing``), and then ``chunk_scan`` runs
on all of them in parallel; the backward does the same from right to left. The forward keeps every CHECKPOINT-th state
for the backward, which recomputes the states between. Sums over channels are written once for each block of channels;
all parts are added in a fixed order, so results are the same bits every time.

What bounds it is the exponential, d_state times per token, channel and scan: 16 per clock and multiprocessor. It is
taken to the base 2, which is one instruction, of rates that are scaled beforehand.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from .._core.operator.inputs import gradients_by_name, needs_gradient, save_inputs_and_last, saved_inputs
from .._core.operator.operators import operator
from .._core.packing import reversible
from .._core.triton.functions import TYPES, View, view
from .._core.triton.support import Chunks, accumulator_dtype, count_segments, on_device
from ..linear_scan.triton import state_passing
from .spec import TOKENS, Inputs
from .triton_kernels import (
    chunk_scan_backward_kernel,
    chunk_scan_kernel,
    chunk_state_backward_kernel,
    chunk_state_kernel,
)

PREFETCH = 4
"""Steps whose rows are loaded together; the backward keeps as many states in registers, which is what limits it."""
CHECKPOINT = 16
"""Steps from one state kept for the backward to the next: memory falls with it, recomputation grows with it."""
MIN_CHUNK = 32
"""Steps of the shortest chunk: below, state passing takes longer than it saves."""
PROGRAMS = 2048
"""Programs of one warp that keep a large GPU busy: 16 on each of 128 multiprocessors."""
FORWARD_STATES, BACKWARD_STATES = 512, 256
"""States of a program, 16 or 8 registers per lane. The backward holds PREFETCH + 1 copies of them and their decays."""


class _Layout:
    """The inputs as the kernels expect them, B and C in the accumulators' dtype (every lane needs all of them)."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor, cu_seqlens: Tensor | None) -> None:
        dtype = accumulator_dtype(u)
        self.B, self.C = (view((w if w.dim() == 4 else w[:, :, None]).to(dtype)) for w in (B, C))
        # (d_state, channels), times log2(e): a step computes 2^(dt A log2 e) in one instruction.
        self.A = (A.T.to(dtype) * math.log2(math.e)).contiguous()
        self.groups, (self.channels, self.n_states) = (B.shape[2] if B.dim() == 4 else 1), A.shape
        self.per_group, (batch, self.length, _) = self.channels // self.groups, u.shape
        self.dtype = TYPES[dtype]
        # As few chunks as fill the GPU: each chunk but a sequence's last is scanned twice.
        size = _chunk_size(batch * self.length, self.length, self.groups * self.tiles(FORWARD_STATES)[1])
        self.chunks = Chunks.split(cu_seqlens, u, size)
        self.whole = cu_seqlens is None and size >= self.length
        self.checkpoint_offsets = Chunks.split(cu_seqlens, u, CHECKPOINT).offsets
        self.where = (*self.chunks[:4], self.length)
        self.sizes = (self.channels, self.per_group, self.n_states)

    def tiles(self, states: int) -> tuple[tuple[Any, ...], int]:
        """Constants of programs that hold ``states`` of them, and the blocks of channels in each group."""
        # A program holds (BN, BD) states, states x channels, spread over the 32 lanes of its warp.
        BN = triton.next_power_of_2(self.n_states)
        # At most 64 channels, two per lane: more would leave few programs to hide the latency of loads.
        BD = min(max(states // BN, 1), 64, triton.next_power_of_2(self.per_group))
        return (BN, BD, self.dtype), triton.cdiv(self.per_group, BD)

    def grid(self, blocks: int) -> tuple[int]:
        """One program for every chunk and block of channels."""
        return (len(self.chunks.starts) * self.groups * blocks,)

    def empty_states(self, like: Tensor) -> Tensor:
        """One state per chunk, (d_state, channels) each."""
        return like.new_empty(len(self.chunks.starts), self.n_states * self.channels, dtype=accumulator_dtype(like))

    def entering_states(self, state: Tensor | None, like: Tensor) -> Tensor:
        """A state per segment, (d_state, channels) each, for chunks that are whole segments."""
        return torch.zeros_like(self.empty_states(like)) if state is None else _flat(state, accumulator_dtype(like))

    def unflat(self, states: Tensor) -> Tensor:
        """(segments, d_state * channels) to (segments, channels, d_state), the inverse of :func:`_flat`."""
        unflat: Tensor = states.unflatten(1, (self.n_states, self.channels)).mT
        return unflat


def _chunk_size(tokens: int, length: int, blocks: int) -> int:
    """Steps of a chunk: as many as leave :data:`PROGRAMS` programs for ``blocks`` of channels, a power of two."""
    wanted = triton.next_power_of_2(triton.cdiv(tokens * blocks, PROGRAMS))
    return int(max(MIN_CHUNK, min(wanted, triton.next_power_of_2(length))))


def _view(x: Tensor | None) -> View | None:
    return None if x is None else view(x)


def _flat(state: Tensor, dtype: torch.dtype) -> Tensor:
    """(segments, channels, d_state) to (segments, d_state * channels)."""
    return state.to(dtype).mT.flatten(1).contiguous()


@reversible(*TOKENS)
def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    y, final_state, _ = _forward(inputs, needs_gradient(inputs))
    return y, final_state


@operator("selective_scan_triton", lambda inputs, learning: _empty_outputs(inputs, learning))
def _forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the final state, and every CHECKPOINT-th state (none unless learning)."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, _ = inputs
    y, final, checkpoints = _empty_outputs(inputs, learning)
    if u.numel() == 0:
        return y, final.copy_(final if initial_state is None else initial_state), checkpoints
    layout = _Layout(u, A, B, C, cu_seqlens)
    tiles, blocks = layout.tiles(FORWARD_STATES)
    scanned, last = (view(u), view(delta), layout.A, layout.B), torch.empty_like(final).flatten(1)
    where = (*layout.where, *layout.sizes)
    with on_device(u):
        # Chunks are whole sequences: the initial state enters, and no states have to be passed.
        if layout.whole:
            entering = layout.entering_states(initial_state, u)
        else:
            entering, decays = layout.empty_states(u), layout.empty_states(u)
            # Pass 1: final state and total decay of every chunk from zero; pass 2: the states that enter the chunks.
            chunk_state_kernel[layout.grid(blocks)](
                *scanned, delta_bias, entering, decays, *where, delta_softplus, PREFETCH, *tiles, num_warps=1
            )
            initial = None if initial_state is None else _flat(initial_state, entering.dtype)
            state_passing(decays, entering, initial, layout.chunks.offsets)
        # Pass 3: the scan itself, which also writes the output, gated and with the skip, and the checkpoints.
        chunk_scan_kernel[layout.grid(blocks)](
            *scanned, layout.C, D, _view(z), delta_bias, entering, y, last, checkpoints if learning else None,
            layout.checkpoint_offsets, *where, delta_softplus, PREFETCH, CHECKPOINT, *tiles, num_warps=1,
        )  # fmt: skip
    return y, final.copy_(layout.unflat(last)), checkpoints


@operator("selective_scan_triton_backward", lambda inputs, *_: _empty_gradients(inputs))
def _backward(
    inputs: Inputs, checkpoints: Tensor, dy: Tensor, dfinal: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, of parameters in float32 or wider."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, _, cu_seqlens, _ = inputs
    gradients = _empty_gradients(inputs)
    du, ddelta, _, _, _, _, dz, _, dinitial = gradients
    if u.numel() == 0:
        for gradient in gradients:
            gradient.zero_()
        return gradients
    layout, (batch, length, channels) = _Layout(u, A, B, C, cu_seqlens), u.shape
    tiles, blocks = layout.tiles(BACKWARD_STATES)
    steps, gate, grad = view(delta), _view(z), view(dy)
    dA, first = layout.empty_states(u), torch.empty_like(dinitial).flatten(1)
    # dB and dC are sums over the channels of a group: one part per block of channels, added below in fixed order.
    dB, dC = dA.new_empty(2, blocks, batch * length, layout.groups, layout.n_states)
    # dA, dD and dbias are sums over time: one part per chunk.
    dD, dbias = dA.new_empty(2, len(dA), channels)
    with on_device(u):
        # The adjoint runs right to left: what leaves a chunk is dL/dstate after its last step.
        if layout.whole:
            dleaving = layout.entering_states(dfinal, u)
        else:
            dleaving, decays = layout.empty_states(u), layout.empty_states(u)
            # This kernel keeps one state, not PREFETCH of them, so it takes the forward's wider blocks.
            wide, wide_blocks = layout.tiles(FORWARD_STATES)
            chunk_state_backward_kernel[layout.grid(wide_blocks)](
                steps, layout.A, layout.C, gate, delta_bias, grad, dleaving, decays, *layout.where, *layout.sizes,
                delta_softplus, PREFETCH, *wide, num_warps=1,
            )  # fmt: skip
            final = None if dfinal is None else _flat(dfinal, dleaving.dtype)
            state_passing(decays, dleaving, final, layout.chunks.offsets, backwards=True)
        chunk_scan_backward_kernel[layout.grid(blocks)](
            view(u), steps, layout.A, layout.B, layout.C, D, gate, delta_bias, grad,
            checkpoints, layout.checkpoint_offsets, dleaving, du, ddelta, dz, dA, dB, dC, dD, dbias, first,
            *layout.where, batch * length, *layout.sizes[:2], layout.groups, layout.n_states,
            delta_softplus, PREFETCH, CHECKPOINT, *tiles, num_warps=1,
        )  # fmt: skip
    dinitial.copy_(layout.unflat(first))
    # The kernel accumulates the gradient of A itself: the factor log2(e) is in its copy of the rates alone.
    rates = dA.sum(0).unflatten(0, (layout.n_states, channels)).T.contiguous()
    projections = (t.sum(0).reshape(B.shape).to(B.dtype) for t in (dB, dC))
    return (du, ddelta, rates, *projections, dD.sum(0), dz, dbias.sum(0), dinitial)


def _empty_outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    u, cu_seqlens, ((batch, length, channels), n_states) = (
        inputs.u,
        inputs.cu_seqlens,
        (inputs.u.shape, inputs.A.shape[1]),
    )
    segments, dtype = count_segments(cu_seqlens, batch), accumulator_dtype(u)
    count = batch * -(-length // CHECKPOINT) if cu_seqlens is None else length // CHECKPOINT + segments
    return (
        u.new_empty(u.shape),
        u.new_zeros(segments, channels, n_states, dtype=dtype),
        u.new_empty(count if learning else 0, n_states * channels, dtype=dtype),
    )


def _empty_gradients(
    inputs: Inputs,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, B, z, (channels, n_states), dtype = inputs.u, inputs.B, inputs.z, inputs.A.shape, accumulator_dtype(inputs.u)
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape),
        u.new_empty(channels, n_states, dtype=dtype),
        B.new_empty(B.shape),
        B.new_empty(B.shape),
        u.new_empty(channels, dtype=dtype),
        u.new_empty(0 if z is None else u.shape),
        u.new_empty(channels, dtype=dtype),
        u.new_empty(count_segments(inputs.cu_seqlens, u.shape[0]), channels, n_states, dtype=dtype),
    )


def _differentiate(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Any) -> dict[str, Tensor | None]:
    inputs, (checkpoints,) = saved_inputs(ctx, Inputs)
    dy = torch.zeros_like(inputs.u) if dy is None else dy
    return gradients_by_name(inputs, _backward(inputs, checkpoints, dy, dfinal))


_forward.differentiate(save_inputs_and_last, _differentiate)
