"""What the kernels of recurrences with a matrix state are launched with: grids, blocks, buffers between them."""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .._core.operator.inputs import Bounds
from .._core.triton.functions import View, view
from .._core.triton.support import Chunks, accumulator_dtype, count_segments, on_device
from .triton_backward import intra_chunk_backward_kernel, state_passing_backward_kernel
from .triton_blocks import Sizes, dtypes
from .triton_forward import intra_chunk_kernel, state_passing_kernel


class Inputs(NamedTuple):
    """The arguments of the operator, in order; tensors (batch, length, heads, width) but the last two."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    initial_state: Tensor | None
    cu_seqlens: Bounds | None
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


class IntraChunk(NamedTuple):
    """What state passing takes: q and k decayed if by a vector, and then the total decays; else the decay itself."""

    q: View
    k: View
    k_start: View | None
    log_decay: View | None
    beta: View | None
    scores: Tensor
    ut: Tensor | None
    total: Tensor | None


class Launch:
    """The inputs as the kernels take them, their sizes, and the buffers between the kernels."""

    def __init__(self, inputs: Inputs) -> None:
        q, k, v, log_decay, _ = inputs[:5]
        self.inputs, self.heads, self.segments = inputs, int(inputs.heads), int(inputs.segments)
        (batch, self.length, _, self.d_k), self.d_v = k.shape, v.shape[3]
        self.tokens, self.accumulator, self.dtype = batch * self.length, accumulator_dtype(q), q.dtype
        self.vector = log_decay is not None and log_decay.shape[3] > 1
        self.blocks = Sizes(self.d_k, self.d_v, q.dtype.itemsize == 2, self.vector, inputs.delta)
        self.chunk = self.blocks.chunk(self.length)
        self.levels = self.chunk.bit_length() - 1
        self.chunks = Chunks.split(inputs.cu_seqlens, k, self.chunk)
        self.views = [None if t is None else self.view(t) for t in inputs[:5]]
        self.dtypes = dtypes(q)
        self.sizes = (self.heads, self.d_k, self.d_v, inputs.scale)

    def view(self, tensor: Tensor) -> View:
        """A tensor (batch, length, heads, width) as the kernels take it."""
        return view(tensor, self.heads)

    def per_token(self, width: int, dtype: torch.dtype) -> Tensor:
        """Buffer (batch, length, heads, width)."""
        return self.inputs.q.new_empty(self.inputs.q.shape[0], self.length, self.heads, width, dtype=dtype)

    def planes(self, width: int) -> Tensor:
        """Buffer (planes, batch, length, heads, width) for ``store_planes``: two of bfloat16 for 16-bit inputs."""
        if self.dtype.itemsize != 2:
            return self.per_token(width, self.accumulator)[None]
        return self.inputs.q.new_empty(2, *self.inputs.q.shape[:2], self.heads, width, dtype=torch.bfloat16)

    def parts(self, count: int) -> Tensor:
        """Buffer (count, batch, length, heads, 1) for sums over ``count`` blocks of channels."""
        return self.per_token(count, self.accumulator).movedim(-1, 0).unsqueeze(-1).contiguous()

    def states(self, count: int, dtype: torch.dtype) -> Tensor:
        """Buffer for ``count`` states of every head."""
        return self.inputs.q.new_empty(count, self.heads, self.d_k, self.d_v, dtype=dtype)

    def gradient_dtype(self, tensor: Tensor) -> torch.dtype:
        """That of the accumulators where gradients of several heads are still to be added up, else the tensor's."""
        return self.dtype if tensor.shape[2] == self.heads else self.accumulator

    def intra_chunk(self) -> IntraChunk:
        """Run over all chunks in parallel."""
        q, k, _, log_decay, beta = self.views
        assert q is not None
        assert k is not None
        delta, vector, blocks = self.inputs.delta, self.vector, self.blocks.intra_chunk()
        # Queries feed outputs alone and round like them; keys and ut feed the state.
        q_start = self.view(self.per_token(self.d_k, self.dtype)) if vector else None
        k_start = self.view(self.planes(self.d_k)[0]) if vector and delta else None
        k_end = self.view(self.planes(self.d_k)[0]) if vector else None
        total = None
        if vector:
            total = self.inputs.q.new_empty(len(self.chunks.starts), self.heads, self.d_k, dtype=self.accumulator)
        # Within a chunk, scores[i, j] = q_i . k_j decayed, j <= i: a row of `chunk` numbers per token.
        scores = self.per_token(self.chunk, self.dtype)
        ut = self.planes(self.chunk)[0] if delta else None
        buffers = [None if t is None else t.ptr for t in (q_start, k_start, k_end)]
        with on_device(scores):
            intra_chunk_kernel[(len(self.chunks.starts), self.heads)](
                q, k, log_decay, beta, *buffers, total, scores, ut,
                *self.chunks[:2], self.length, self.tokens, self.heads, self.d_k, self.inputs.scale,
                vector, self.levels, self.chunk, blocks.BK, *self.dtypes, **blocks.options,
            )  # fmt: skip
        decay = None if vector else log_decay
        return IntraChunk(q_start or q, k_end or k, k_start, decay, beta, scores, ut, total)

    def state_passing(self) -> tuple[tuple[int, int], tuple[Any, ...], dict[str, int]]:
        """Grid, constants and resources of the kernels that pass states."""
        BK, BV, options = self.blocks.state_passing(self.segments * self.heads)
        grid = self.segments * triton.cdiv(self.d_v, BV), self.heads
        return grid, (self.chunk, BK, BV, *self.dtypes), options

    def forward(self, intra: IntraChunk, o: Tensor | None, errors: Tensor | None, states: Tensor | None) -> Tensor:
        """Pass the states and fill what is given of outputs, errors and entering states; returns the final states."""
        p, v, state = intra, self.views[2], self.inputs.initial_state
        final, (grid, constants, options) = self.states(self.segments, self.accumulator), self.state_passing()
        initial = None
        if state is not None:
            dense = state.contiguous()
            initial = View(dense, dense.stride(0), 0, dense.stride(1), self.heads // dense.shape[1])
        with on_device(final):
            state_passing_kernel[grid](
                p.q, p.k, p.k_start, v, p.log_decay, p.beta, p.scores, p.ut, p.total, initial, o, errors, states,
                final, self.chunks.cu_seqlens, self.chunks.offsets, self.length, self.tokens,
                *self.sizes, *constants, **options,
            )  # fmt: skip
        return final

    def backward(self, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
        """Gradients of q, k, v, log_decay, beta and the initial state for every head of the states."""
        p, (q, k, v, log_decay, beta), g = self.intra_chunk(), self.views, self.view(do)
        states, delta = self.states(len(self.chunks.starts), self.dtype), self.inputs.delta
        errors = self.per_token(self.d_v, self.dtype) if delta else None
        dinitial, (grid, constants, options) = self.forward(p, None, errors, states), self.state_passing()
        e, dstates = v if errors is None else self.view(errors), torch.empty_like(states)
        dq, dk, dv = (
            self.per_token(width, self.gradient_dtype(t))
            for width, t in zip((self.d_k, self.d_k, self.d_v), self.inputs[:3], strict=True)
        )
        BK, BV, resources = self.blocks.intra_chunk_backward()
        # dbeta sums over value channels, a scalar ddecay over key channels: a part for each block of them.
        columns, rows = triton.cdiv(self.d_v, constants[2]), triton.cdiv(self.d_k, BK)
        dbeta = self.parts(0 if beta is None else columns)
        if self.vector:
            ddecay = self.per_token(self.d_k, self.accumulator)
        else:
            ddecay = self.parts(0 if log_decay is None else rows)
        sizes = (self.length, self.tokens, *self.sizes)
        with on_device(dq):
            # Right to left over the chunks: dv, dbeta and the gradients of the states between the chunks.
            state_passing_backward_kernel[grid](
                p.q, p.k, p.k_start, e, g, p.log_decay, beta, p.scores, p.ut, p.total, dfinal, dv, dbeta,
                dstates, dinitial, self.chunks.cu_seqlens, self.chunks.offsets, *sizes, *constants, **options,
            )  # fmt: skip
            # All chunks in parallel: dq, dk and ddecay from the states and their gradients at the chunk's borders.
            intra_chunk_backward_kernel[(len(self.chunks.starts), self.heads, rows)](
                q, k, log_decay, beta, g, e, dv, states, dstates, dq, dk, ddecay, *self.chunks[:2], *sizes,
                self.vector, delta, self.levels, self.chunk, BK, BV, *self.dtypes, **resources,
            )  # fmt: skip
        return dq, dk, dv, ddecay if self.vector else ddecay.sum(0), dbeta.sum(0), dinitial
