"""Sizes of chunks and blocks for the kernels in Triton, and the warps and registers of their programs.

Chosen by compiling for compute capability 9.0: on 16-bit tensors every product runs on the matrix units, hardly
anything spills up to 128 channels (at 256 the delta rule does), and a program needs at most half of the shared memory.
Wider types multiply in three passes of tf32, which takes many registers: their chunks are short.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.triton.functions import TYPES
from .._core.triton.support import accumulator_dtype, interpreted

CHUNK = 64
"""Rows of a chunk: the height of a matrix product of a warp group, and fewest operations per token for d near 128."""
MIN_PROGRAMS = 128
"""Programs that state passing needs at least to fill a large GPU, one per multiprocessor."""
MIN_BLOCK = 16
"""Rows and columns that the matrix units need at least."""


class Blocks(NamedTuple):
    """How a kernel is split into programs.

    Attributes:
        BK: channels of the keys that a program takes at a time.
        BV: channels of the values.
        options: resources of a program, as Triton's launcher takes them.
    """

    BK: int
    BV: int
    options: dict[str, int]


class Sizes(NamedTuple):
    """What the choice depends on.

    Attributes:
        d_k: channels of the keys.
        d_v: channels of the values.
        half: whether the inputs have 16 bits.
        vector: whether every key channel has a decay of its own.
        delta: whether it is the delta rule.
    """

    d_k: int
    d_v: int
    half: bool
    vector: bool
    delta: bool

    @property
    def short(self) -> bool:
        """Whether chunks have half as many rows.

        The delta rule holds k, ut and (vector decay) k_start with their rests: with 64 rows of 128 channels one program
        fills the shared memory of a multiprocessor (136 to 234 KB), with 32 rows several share it.
        """
        return self.d_k > (128 if not self.delta else 32 if self.vector else 64)

    def chunk(self, length: int) -> int:
        """Rows of a chunk: a power of two, not much longer than the sequence."""
        # 64 rows; 32 where operands fill the shared memory; 16 where products run in three passes of tf32.
        return _block(length, CHUNK // (4 if not self.half else 2 if self.short else 1))

    def intra_chunk(self) -> Blocks:
        """Blocks of the products within chunks."""
        # A vector decay keeps q, k and their decayed forms next to each other: half as many channels at a time.
        if self.vector:
            return Blocks(_block(self.d_k, 32), 0, self._options(8, capped=not self.delta))
        return Blocks(_block(self.d_k, 64), 0, self._options(4, capped=not self.delta))

    def state_passing(self, states: int) -> Blocks:
        """Blocks of state passing, whose state is in registers; narrow ones where ``states`` are few."""
        BK = _block(self.d_k, self.d_k)
        largest = 64 if self.half and BK <= 128 and not self.delta else 32
        if self.delta and self.d_k > (64 if self.vector else 128):
            largest = 16  # 32 spill
        BV = _block(self.d_v, largest)
        # Few segments and heads: narrower blocks of values give more programs, which redo the (C, C) products.
        while BV > MIN_BLOCK and states * triton.cdiv(self.d_v, BV) < MIN_PROGRAMS:
            BV //= 2
        # The state (BK, BV) in float32, two planes of registers where inputs are wide.
        registers = BK * BV * (1 if self.half else 2)
        return Blocks(BK, BV, {"num_warps": 8 if registers >= 8192 else 4, "num_stages": 2})

    def intra_chunk_backward(self) -> Blocks:
        """Blocks of the gradients of queries, keys and decays."""
        few_rows = self.delta and self.short
        BK = 64 if self.half and not (self.vector or self.delta) else 32
        if few_rows and self.vector:
            BK = 16  # 32 spill
        BV = 64 if self.half and not few_rows and (self.vector or not self.delta) else 32
        options = self._options(4 if few_rows else 8, capped=not (self.vector or few_rows))
        return Blocks(_block(self.d_k, BK), _block(self.d_v, BV), options)

    def _options(self, warps: int, *, capped: bool) -> dict[str, int]:
        """Capped, a thread has so few registers that several programs share a multiprocessor."""
        if not self.half:
            return {"num_warps": 4}
        if not capped or torch.version.hip is not None:
            return {"num_warps": warps}
        # 65,536 registers: two programs of 256 threads at 128 each, three of 128 threads at 168 each.
        return {"num_warps": warps, "maxnreg": 128 if warps == 8 else 168}


def _block(width: int, largest: int) -> int:
    return int(max(min(triton.next_power_of_2(width), triton.next_power_of_2(largest)), MIN_BLOCK))


def dtypes(q: Tensor) -> tuple[Any, ...]:
    """ACC, DOT, BF16 and PRECISION of :mod:`.triton_chunk`: accumulators, operands, and how they are multiplied."""
    accumulator = TYPES[accumulator_dtype(q)]
    operand = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(q.dtype, accumulator)
    bfloat16 = tl.float32 if interpreted() else tl.bfloat16
    return accumulator, operand, bfloat16, "tf32x3" if q.dtype == torch.float32 else "ieee"
