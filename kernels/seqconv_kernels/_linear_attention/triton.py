"""Recurrences with a matrix state in Triton as a PyTorch operator: forward, backward, shapes for the compiler.

Equation, per head, as in :mod:`.triton_kernels`::

    S' = diag(exp(log_decay[t])) S[t-1]
    S[t] = S' + k[t] (beta[t] e[t])^T,   e[t] = v[t]   or, for the delta rule,   v[t] - S'^T k[t]
    o[t] = scale * S[t]^T q[t]

Forward, two kernels: the products within all chunks, side by side; then one program per segment, head and block of
value channels walks through its chunks, its state in registers, and writes the outputs. Backward, both again for the
states and errors, then the walk back, then the gradients of all chunks side by side. Nothing else is kept.

What bounds them, per token and head of d_k = d_v = 128 in bfloat16 with chunks of 64 rows:

==========================  =============  =================
forward                     bytes moved    matrix operations
==========================  =============  =================
no decay or a scalar one    1.8 KB         0.10 MFLOP
vector decay in float32     2.8 KB         0.18 MFLOP
delta rule, scalar decay    2.0 KB         0.22 MFLOP
delta rule, vector decay    3.6 KB         0.38 MFLOP
==========================  =============  =================

The backward moves about three times as much: it writes two states per chunk. Bytes are the limit, and beside them,
for a vector decay, some 20 other instructions per channel, token and level. ``segments * heads * d_v / BV`` programs
walk; where these do not fill the GPU, the limit is the latency of one chunk after the other.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .._core.native import dense_rows
from .._core.operators import operator
from .._core.triton_support import Chunks, accumulator_dtype, count_segments, on_device
from .triton_blocks import Sizes, numbers
from .triton_kernels import View, forward_kernel, gradients_kernel, products_kernel, returns_kernel

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Inputs(NamedTuple):
    """The arguments of the operator, in order; tensors (batch, length, heads, width) but the last two."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    initial_state: Tensor | None
    cu_seqlens: Tensor | None
    scale: float
    delta: bool

    @property
    def heads(self) -> int | torch.SymInt:
        """Heads of the states: the most that any tensor has (a symbol while the compiler keeps shapes open)."""
        return max(self.q.shape[2], self.k.shape[2], self.v.shape[2])

    @property
    def segments(self) -> int | torch.SymInt:
        """Rows of the states."""
        return count_segments(self.cu_seqlens, self.q.shape[0])


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
    state: Tensor | None,
    cu_seqlens: Tensor | None,
    *,
    delta: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs (batch, length, heads, d_v) typed like ``v``, final states (segments, heads, d_k, d_v) in wide sums.

    Args:
        log_decay: (batch, length, heads[, d_k]).
        beta: strength of what is written, (batch, length, heads).
        state: before the first token of each segment, (segments, heads, d_k, d_v).
        delta: write the error at the key (the delta rule) rather than the value.
    """
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    log_decay, beta = (t if t is None or t.dim() == 4 else t[..., None] for t in (log_decay, beta))
    o, final_state = _forward(q.to(dtype), k.to(dtype), v.to(dtype), log_decay, beta, state, cu_seqlens, scale, delta)
    return o.to(v.dtype), final_state


class _Launch:
    """The inputs as the kernels see them, their sizes, and room for what they hand to each other."""

    def __init__(self, inputs: Inputs) -> None:
        q, k, v, log_decay, _ = inputs[:5]
        self.inputs, self.heads, self.segments = inputs, int(inputs.heads), int(inputs.segments)
        (batch, self.length, _, self.d_k), self.d_v = k.shape, v.shape[3]
        self.tokens, self.sums, self.kept = batch * self.length, accumulator_dtype(q), q.dtype
        self.vector = log_decay is not None and log_decay.shape[3] > 1
        self.blocks = Sizes(self.d_k, self.d_v, q.dtype.itemsize == 2, self.vector, inputs.delta)
        self.chunk = self.blocks.chunk(self.length)
        self.levels = self.chunk.bit_length() - 1
        self.cut = Chunks.split(inputs.cu_seqlens, k, self.chunk)
        self.chunks = len(self.cut.starts)
        self.views = [None if t is None else self.view(t) for t in inputs[:5]]
        self.numbers = numbers(q)
        self.sizes = (self.heads, self.d_k, self.d_v, inputs.scale)

    def view(self, tensor: Tensor) -> View:
        """What a kernel is told of a tensor (batch, length, heads, width)."""
        dense = dense_rows(tensor)
        row, step, head, _ = dense.stride()
        return View(dense, row, step, head, self.heads // tensor.shape[2])

    def per_token(self, width: int, dtype: torch.dtype) -> Tensor:
        """Room for (batch, length, heads, width)."""
        return self.inputs.q.new_empty(self.inputs.q.shape[0], self.length, self.heads, width, dtype=dtype)

    def parts(self, count: int) -> Tensor:
        """Room for sums over ``count`` parts of the channels, (parts, batch, length, heads, 1)."""
        return self.per_token(count, self.sums).movedim(-1, 0).unsqueeze(-1).contiguous()

    def states(self, count: int, dtype: torch.dtype) -> Tensor:
        """Room for ``count`` states of every head."""
        return self.inputs.q.new_empty(count, self.heads, self.d_k, self.d_v, dtype=dtype)

    def summed(self, tensor: Tensor) -> torch.dtype:
        """The dtype for gradients of a tensor: that of the sums if they are still to be added up over heads."""
        return self.kept if tensor.shape[2] == self.heads else self.sums

    def products(self) -> "_Products":
        """Run over the chunks side by side."""
        q, k, _, log_decay, beta = self.views
        assert q is not None
        assert k is not None
        delta, vector, blocks = self.inputs.delta, self.vector, self.blocks.products()
        wanted = (vector, vector and delta, vector)
        q_in, k_in, k_out = (self.view(self.per_token(self.d_k, self.kept)) if w else None for w in wanted)
        total = self.inputs.q.new_empty(self.chunks, self.heads, self.d_k, dtype=self.sums) if vector else None
        qk = self.per_token(self.chunk, self.kept)
        mixing = torch.empty_like(qk) if delta else None
        solve = "tf32" if self.kept.itemsize == 2 else self.numbers[2]
        with on_device(qk):
            products_kernel[(self.chunks, self.heads)](
                q, k, log_decay, beta, *(None if t is None else t.ptr for t in (q_in, k_in, k_out)), total, qk, mixing,
                *self.cut[:2], self.length, self.heads, self.d_k, self.inputs.scale,
                vector, self.levels, self.chunk, blocks.BK, *self.numbers, solve, **blocks.options,
            )  # fmt: skip
        return _Products(q_in or q, k_out or k, k_in, None if vector else log_decay, beta, qk, mixing, total)

    def walk(self) -> tuple[tuple[int, int], tuple[Any, ...], dict[str, int]]:
        """Grid, constants and resources of the walks."""
        BK, BV, options = self.blocks.walk(self.segments * self.heads)
        grid = self.segments * triton.cdiv(self.d_v, BV), self.heads
        return grid, (self.chunk, BK, BV, *self.numbers), options

    def forward(self, products: "_Products", o: Tensor | None, errors: Tensor | None, states: Tensor | None) -> Tensor:
        """Walk through the chunks and fill what is given of outputs, errors and entering states; the final states."""
        p, v, state = products, self.views[2], self.inputs.initial_state
        final, (grid, constants, options) = self.states(self.segments, self.sums), self.walk()
        initial = None
        if state is not None:
            dense = state.contiguous()
            initial = View(dense, dense.stride(0), 0, dense.stride(1), self.heads // dense.shape[1])
        with on_device(final):
            forward_kernel[grid](
                p.q, p.k, p.k_in, v, p.log_decay, p.beta, p.qk, p.mixing, p.total, initial, o, errors, states, final,
                self.cut.cu_seqlens, self.cut.offsets, self.length, *self.sizes, *constants, **options,
            )  # fmt: skip
        return final

    def backward(self, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
        """Gradients of q, k, v, log_decay, beta and the initial state for every head of the states."""
        p, (q, k, v, log_decay, beta), g = self.products(), self.views, self.view(do)
        states, delta = self.states(self.chunks, self.kept), self.inputs.delta
        errors = self.per_token(self.d_v, self.kept) if delta else None
        dinitial, (grid, constants, options) = self.forward(p, None, errors, states), self.walk()
        e, leaving = v if errors is None else self.view(errors), torch.empty_like(states)
        dq, dk, dv = (
            self.per_token(width, self.summed(t))
            for width, t in zip((self.d_k, self.d_k, self.d_v), self.inputs[:3], strict=True)
        )
        BK, BV, resources = self.blocks.gradients()
        columns, rows = triton.cdiv(self.d_v, constants[2]), triton.cdiv(self.d_k, BK)
        dbeta = self.parts(0 if beta is None else columns)
        ddecay = self.per_token(self.d_k, self.sums) if self.vector else self.parts(0 if log_decay is None else rows)
        sizes = (self.length, self.tokens, *self.sizes)
        with on_device(dq):
            returns_kernel[grid](
                p.q, p.k, p.k_in, e, g, p.log_decay, beta, p.qk, p.mixing, p.total, dfinal, dv, dbeta,
                leaving, dinitial, self.cut.cu_seqlens, self.cut.offsets, *sizes, *constants, **options,
            )  # fmt: skip
            gradients_kernel[(self.chunks, self.heads, rows)](
                q, k, log_decay, beta, g, e, dv, states, leaving, dq, dk, ddecay, *self.cut[:2], *sizes,
                self.vector, delta, self.levels, self.chunk, BK, BV, *self.numbers, **resources,
            )  # fmt: skip
        return dq, dk, dv, ddecay if self.vector else ddecay.sum(0), dbeta.sum(0), dinitial


class _Products(NamedTuple):
    """What a walk takes: q and k decayed if by a vector, and then with their total decays, else the decay itself."""

    q: View
    k: View
    k_in: View | None
    log_decay: View | None
    beta: View | None
    qk: Tensor
    mixing: Tensor | None
    total: Tensor | None


def _outputs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    (batch, length, _, d_v), q = inputs.v.shape, inputs.q
    state = (inputs.segments, inputs.heads, q.shape[3], d_v)
    return q.new_empty(batch, length, inputs.heads, d_v), q.new_empty(state, dtype=accumulator_dtype(q))


@operator("linear_attention_triton", lambda *a: _outputs(Inputs(*a)))
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    delta: bool,
) -> tuple[Tensor, Tensor]:
    """The output and the final states."""
    inputs = Inputs(q, k, v, log_decay, beta, initial_state, cu_seqlens, scale, delta)
    if q.numel() == 0:
        o, final = _outputs(inputs)
        return o, final
    launch = _Launch(inputs)
    o = launch.per_token(launch.d_v, launch.kept)
    return o, launch.forward(launch.products(), o, None, None)


def _shaped(found: tuple[Tensor, ...] | None, inputs: Inputs) -> Gradients:
    """Gradients shaped and typed like the tensors, summed over the heads that share one; empty for an absent tensor."""
    tensors, shaped = inputs[:6], []
    for place, tensor in enumerate(tensors):
        if tensor is None or found is None:
            shaped.append(inputs.q.new_zeros(0 if tensor is None else tensor.shape))
            continue
        gradient, axis = found[place], 1 if place == 5 else 2
        if gradient.shape[axis] != tensor.shape[axis]:
            gradient = gradient.unflatten(axis, (tensor.shape[axis], -1)).sum(axis + 1)
        shaped.append(gradient.to(tensor.dtype))
    q, k, v, log_decay, beta, state = shaped
    return q, k, v, log_decay, beta, state


@operator(
    "linear_attention_triton_backward",
    lambda *a: tuple(a[0].new_empty(0) if t is None else t.new_empty(t.shape) for t in Inputs(*a[:9])[:6]),
)
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    delta: bool,
    do: Tensor,
    dfinal: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the tensors, empty for those that are absent."""
    inputs = Inputs(q, k, v, log_decay, beta, initial_state, cu_seqlens, scale, delta)
    if q.numel() == 0:
        return _shaped(None, inputs)
    dfinal = None if dfinal is None else dfinal.contiguous()
    return _shaped(_Launch(inputs).backward(do, dfinal), inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    *tensors, ctx.scale, ctx.delta = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, do: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs = Inputs._make((*ctx.saved_tensors, ctx.scale, ctx.delta))
    do = torch.zeros_like(_outputs(inputs)[0]) if do is None else do
    found = _backward(*inputs, do, dfinal)
    kept = [None if t is None else g for t, g in zip(inputs[:6], found, strict=True)]
    return *kept, None, None, None


_forward.differentiate(_setup_context, _differentiate)
