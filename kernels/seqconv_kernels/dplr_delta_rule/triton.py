"""The generalised delta rule in Triton: one program per sequence, head and block of value channels, token by token.

Forward, with a state S of (d_k, d_v) and ``α = exp(log_decay)``; without ``b`` the key writes what was read::

    u[t] = S[t-1]^T a[t]
    S[t] = diag(α[t]) S[t-1] + b[t] u[t]^T + k[t] v[t]^T        o[t] = scale S[t]^T q[t]

The columns of S do not depend on each other, so a program holds a block of them, (BK, BV), in registers through the
whole sequence; per token it reads q, k, a, b, α and a block of v, and writes a block of o. Every CHUNK-th state goes to
memory where a gradient is wanted.

Backward, chunk after chunk from the last one. The states within a chunk are computed again from the stored one, and
kept in a buffer that stays in the second-level cache, since dividing by decays would not be stable. Then, from the last
token to the first, with G the gradient of S[t] on all paths (at the end that of the final state)::

    G       += scale q do^T                     dq = scale S[t] do
    dv       = G^T k        du = G^T b          dk = G v        db = G u         da = S[t-1] du
    dα       = sum over columns of G S[t-1]     dlog_decay = α dα
    G        = diag(α) G + a du^T               (the gradient of S[t-1])

Without b: ``du = dv = G^T k``, ``dk = G (v + u)``. dq, dk, da, db and dlog_decay are sums over columns: each block of
columns writes its part, and the parts are added in order, so that results repeat bit by bit.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.operator.inputs import needs_gradient
from .._core.triton.functions import TYPES, View, head_address, view
from .._core.triton.support import Chunks, on_device
from .._linear_attention.operator import outputs, recurrence
from .chunked import dplr_delta_rule as in_chunks
from .spec import Inputs

CHUNK = 16
"""Tokens between stored states: they take d_k d_v / (16 d) times the memory of one of the inputs of width d."""
WIDEST_BLOCK = 32
"""Columns of a program's state: of 64 rows, 2,048 numbers, and as many of their gradient, in two warps."""
NUMBERS_PER_WARP = 1024
"""Of a state: 32 per thread, so that it and its gradient fit the 255 registers."""


@triton.jit
@no_type_check
def _vector(x, token, length, head, at, width, ACC: tl.constexpr):
    """The channels ``at`` of a token, zero from ``width`` on."""
    return tl.load(head_address(x, token, length, head) + at, mask=at < width, other=0).to(ACC)


@triton.jit
@no_type_check
def _decay(log_decay, token, length, head, i, d_k, SCALAR: tl.constexpr, ACC: tl.constexpr):
    """α of a token, (BK,): per channel, the same for all, or one."""
    if log_decay is None:
        return tl.full(i.shape, 1.0, ACC)
    elif SCALAR:
        # One number, spread over the rows by the sum.
        return tl.exp(tl.load(head_address(log_decay, token, length, head)).to(ACC) + tl.zeros(i.shape, ACC))
    else:
        return tl.exp(_vector(log_decay, token, length, head, i, d_k, ACC))


@triton.jit
@no_type_check
def _written(k, b, token, length, head, i, d_k, ACC: tl.constexpr):
    """k, and where the read value is written: b, or k itself; (BK,) each."""
    key = _vector(k, token, length, head, i, d_k, ACC)
    if b is not None:
        return key, _vector(b, token, length, head, i, d_k, ACC)
    else:
        return key, key


@triton.jit
@no_type_check
def _next_state(S, k, v, a, b, decay):
    """S[t] from S[t-1], (BK, BV), and what was read, u (BV,): sums over rows, which lie across the threads."""
    u = tl.sum(S * a[:, None], 0)
    return decay[:, None] * S + b[:, None] * u[None, :] + k[:, None] * v[None, :], u


@triton.jit
@no_type_check
def _forward_kernel(
    q, k, v, a, b, log_decay, initial, o, states, final, cu_seqlens, offsets, length, heads, d_k, d_v,
    SCALE: tl.constexpr, SCALAR: tl.constexpr, CHUNK: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Grid (sequences x blocks of columns, heads). ``states`` (chunks, heads, d_k, d_v) are those before each chunk."""
    blocks, head = tl.cdiv(d_v, BV), tl.program_id(1)
    segment, i = (tl.program_id(0) // blocks).to(tl.int64), tl.arange(0, BK)
    j = tl.program_id(0) % blocks * BV + tl.arange(0, BV)
    # A head's state is row-major; neighbouring threads hold neighbouring columns.
    at, exists = i[:, None] * d_v + j[None, :], (i < d_k)[:, None] & (j < d_v)[None, :]
    S = tl.zeros([BK, BV], ACC)
    if initial is not None:
        S = tl.load(initial + (segment * heads + head) * d_k * d_v + at, mask=exists, other=0).to(ACC)
    start, stop, first = tl.load(cu_seqlens + segment), tl.load(cu_seqlens + segment + 1), tl.load(offsets + segment)
    # Chunks count through all sequences; those of this one begin with `first`.
    for chunk in range(0, tl.cdiv(stop - start, CHUNK)):
        if states is not None:
            tl.store(states + ((first + chunk) * heads + head) * d_k * d_v + at, S, mask=exists)
        begin = start + chunk * CHUNK
        for token in range(begin, tl.minimum(begin + CHUNK, stop)):
            key, write = _written(k, b, token, length, head, i, d_k, ACC)
            read = _vector(a, token, length, head, i, d_k, ACC)
            value = _vector(v, token, length, head, j, d_v, ACC)
            decay = _decay(log_decay, token, length, head, i, d_k, SCALAR, ACC)
            S, _ = _next_state(S, key, value, read, write, decay)
            # The output reads the state after the token's own write.
            out = SCALE * tl.sum(S * _vector(q, token, length, head, i, d_k, ACC)[:, None], 0)
            tl.store(o + (token * heads + head) * d_v + j, out.to(o.dtype.element_ty), mask=j < d_v)
    tl.store(final + (segment * heads + head) * d_k * d_v + at, S, mask=exists)


@triton.jit
@no_type_check
def _backward_kernel(
    q, k, v, a, b, log_decay, states, do, dfinal, scratch, dq, dk, dv, da, db, ddecay, dinitial,
    cu_seqlens, offsets, length, tokens, heads, d_k, d_v,
    SCALE: tl.constexpr, SCALAR: tl.constexpr, CHUNK: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Grid as in :func:`_forward_kernel`; ``scratch`` (programs, CHUNK, BK, BV): the states before a chunk's tokens.

    dq, dk, da, db and ddecay are (blocks of columns, tokens, heads, width): the program's own columns' part of each.
    """
    blocks, head = tl.cdiv(d_v, BV), tl.program_id(1)
    segment, i = (tl.program_id(0) // blocks).to(tl.int64), tl.arange(0, BK)
    j = tl.program_id(0) % blocks * BV + tl.arange(0, BV)
    at, exists = i[:, None] * d_v + j[None, :], (i < d_k)[:, None] & (j < d_v)[None, :]
    # A tile of the buffer is whole, so no mask; the distance from tile to tile is BK BV.
    tile = tl.arange(0, BK)[:, None] * BV + tl.arange(0, BV)[None, :]
    kept = scratch + (tl.program_id(0).to(tl.int64) * heads + head) * CHUNK * BK * BV + tile
    part = (tl.program_id(0) % blocks).to(tl.int64) * tokens
    G = tl.zeros([BK, BV], ACC)
    if dfinal is not None:
        G = tl.load(dfinal + (segment * heads + head) * d_k * d_v + at, mask=exists, other=0).to(ACC)
    start, stop, first = tl.load(cu_seqlens + segment), tl.load(cu_seqlens + segment + 1), tl.load(offsets + segment)
    chunks = tl.cdiv(stop - start, CHUNK)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        begin = start + chunk * CHUNK
        count = tl.minimum(CHUNK, stop - begin)
        S = tl.load(states + ((first + chunk) * heads + head) * d_k * d_v + at, mask=exists, other=0)
        # Forward through the chunk: keep the state before every token, without the outputs.
        for step in range(0, count):
            token = begin + step
            tl.store(kept + step * BK * BV, S)
            key, write = _written(k, b, token, length, head, i, d_k, ACC)
            read = _vector(a, token, length, head, i, d_k, ACC)
            value = _vector(v, token, length, head, j, d_v, ACC)
            S, _ = _next_state(S, key, value, read, write, _decay(log_decay, token, length, head, i, d_k, SCALAR, ACC))
        # Other threads of the program may read what this one wrote.
        tl.debug_barrier()
        for back_step in range(0, count):
            step = count - 1 - back_step
            token = begin + step
            key, write = _written(k, b, token, length, head, i, d_k, ACC)
            read = _vector(a, token, length, head, i, d_k, ACC)
            value = _vector(v, token, length, head, j, d_v, ACC)
            decay = _decay(log_decay, token, length, head, i, d_k, SCALAR, ACC)
            before = tl.load(kept + step * BK * BV)
            S, u = _next_state(before, key, value, read, write, decay)
            # The output at this token reads S[t]: its gradient joins G, and S[t] do is that of the query.
            g = SCALE * _vector(do, token, length, head, j, d_v, ACC)
            G += _vector(q, token, length, head, i, d_k, ACC)[:, None] * g[None, :]
            row = ((part + token) * heads + head) * d_k + i
            tl.store(dq + row, tl.sum(S * g[None, :], 1), mask=i < d_k)
            # The adjoints of the two outer products k v^T and b u^T: G read at the vector, or summed with it.
            dvalue, du = tl.sum(G * key[:, None], 0), tl.sum(G * write[:, None], 0)
            tl.store(dv + (token * heads + head) * d_v + j, dvalue, mask=j < d_v)
            if db is None:
                tl.store(dk + row, tl.sum(G * (value + u)[None, :], 1), mask=i < d_k)
            else:
                tl.store(dk + row, tl.sum(G * value[None, :], 1), mask=i < d_k)
                tl.store(db + row, tl.sum(G * u[None, :], 1), mask=i < d_k)
            tl.store(da + row, tl.sum(before * du[None, :], 1), mask=i < d_k)
            if ddecay is not None:
                # dα = sum over columns of G S[t-1]; the exponential's own derivative is α.
                slope = decay * tl.sum(G * before, 1)
                if SCALAR:
                    tl.store(ddecay + (part + token) * heads + head, tl.sum(slope))
                else:
                    tl.store(ddecay + row, slope, mask=i < d_k)
            # Through the decay, and through what a reads of S[t-1]: the gradient of the state before the token.
            G = decay[:, None] * G + read[:, None] * du[None, :]
        # The next chunk overwrites the buffer, which some threads may still read.
        tl.debug_barrier()
    tl.store(dinitial + (segment * heads + head) * d_k * d_v + at, G, mask=exists)


class _Launch:
    """The inputs as the kernels take them, their grid and constants."""

    def __init__(self, inputs: Inputs) -> None:
        v, decay = inputs.v, inputs.log_decay
        self.inputs, self.heads, (self.d_k, self.d_v) = inputs, v.shape[2], (inputs.k.shape[3], v.shape[3])
        self.views = [None if t is None else view(t, self.heads) for t in inputs.tokens]
        self.chunks = Chunks.split(inputs.cu_seqlens, v, CHUNK)
        self.segments = len(self.chunks.cu_seqlens) - 1
        BK, BV = triton.next_power_of_2(self.d_k), min(WIDEST_BLOCK, triton.next_power_of_2(self.d_v))
        self.blocks = triton.cdiv(self.d_v, BV)
        self.constants: dict[str, Any] = {
            "SCALE": inputs.scale, "SCALAR": decay is not None and decay.shape[3] == 1, "CHUNK": CHUNK,
            "BK": BK, "BV": BV, "ACC": TYPES[inputs.dtype],
            "num_warps": max(1, BK * BV // NUMBERS_PER_WARP),
        }  # fmt: skip

    def __call__(self, kernel: Any, *buffers: Any, tokens: tuple[int, ...] = ()) -> None:
        grid, sizes = (self.segments * self.blocks, self.heads), (*tokens, self.heads, self.d_k, self.d_v)
        if self.inputs.v.numel() and self.inputs.k.numel():
            bounds = self.chunks.cu_seqlens, self.chunks.offsets, self.inputs.v.shape[1]
            with on_device(self.inputs.v):
                kernel[grid](*self.views, *buffers, *bounds, *sizes, **self.constants)

    def parts(self, tensor: Tensor | None) -> Tensor | None:
        """Buffer (blocks, batch, length, heads, width) for the parts of a gradient; ``None`` without the tensor."""
        if tensor is None:
            return None
        (batch, length), dtype = self.inputs.v.shape[:2], self.inputs.dtype
        return tensor.new_empty(self.blocks, batch, length, self.heads, tensor.shape[3], dtype=dtype)


def dplr_delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The outputs and the final states."""
    o, final_state, _ = _OPERATOR(inputs, needs_gradient(inputs))
    return o, final_state


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the outputs, the final states, and the states before each chunk."""
    o, final_state = outputs(inputs)
    batch, length, packed = *inputs.v.shape[:2], inputs.cu_seqlens is not None
    chunks = length // CHUNK + inputs.segments if packed else batch * -(-length // CHUNK)
    return o, final_state, final_state.new_empty(chunks if learning else 0, *final_state.shape[1:])


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    o, final_state, states = _outputs(inputs, learning)
    launch = _Launch(inputs)
    launch(_forward_kernel, _dense(inputs.initial_state), o, states if learning else None, final_state)
    return o, final_state, states


def _backward(inputs: Inputs, states: Tensor, do: Tensor, dfinal: Tensor | None) -> list[Tensor | None]:
    launch = _Launch(inputs)
    q, k, _, a, b, log_decay = inputs.tokens
    dq, dk, da, db, ddecay = (launch.parts(t) for t in (q, k, a, b, log_decay))
    dv, dinitial = inputs.v.new_empty(inputs.v.shape, dtype=inputs.dtype), torch.empty_like(outputs(inputs)[1])
    c = launch.constants
    programs = launch.segments * launch.blocks * launch.heads
    scratch = states.new_empty(programs, CHUNK, c["BK"], c["BV"])
    gradient: View = view(do, launch.heads)
    given = (states, gradient, _dense(dfinal), scratch)
    tokens = (inputs.v.shape[0] * inputs.v.shape[1],)
    launch(_backward_kernel, *given, dq, dk, dv, da, db, ddecay, dinitial, tokens=tokens)
    sums = [None if t is None else t.sum(0) for t in (dq, dk, da, db, ddecay)]
    return [*sums[:2], dv, *sums[2:], dinitial]


_OPERATOR = recurrence("dplr_delta_rule_triton", Inputs, in_chunks, _forward, _backward, _outputs, "default")
