"""Sizes of chunks and blocks for the kernels in Triton, and the warps and registers of their programs.

Chosen by compiling for compute capability 9.0: on 16-bit tensors every product runs on the matrix units of a warp
group, hardly anything spills, and a program needs at most half of the shared memory where that can be had. Wider
types multiply in three passes of tf32, which takes many registers: their chunks are short.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._core.triton_functions import TYPES
from .._core.triton_support import accumulator_dtype, interpreted

CHUNK = 64
MULTIPROCESSORS = 128  # programs that a large GPU wants at least


class Blocks(NamedTuple):
    """How a kernel is cut up.

    Attributes:
        BK: channels of the keys that a program takes at a time.
        BV: channels of the values.
        options: resources of a program, as Triton's launcher takes them.
    """

    BK: int
    BV: int
    options: dict[str, int]


class Sizes(NamedTuple):
    """What the choice depends on."""

    d_k: int
    d_v: int
    narrow: bool
    vector: bool
    delta: bool

    def chunk(self, length: int) -> int:
        """Rows of a chunk: a power of two, no more than it takes."""
        longest = CHUNK // (4 if not self.narrow else 1 if self.d_k <= 128 else 2)
        return _block(length, longest)

    def products(self) -> Blocks:
        """Blocks of the products within chunks."""
        if self.vector:
            return Blocks(_block(self.d_k, 32), 0, self._options(8, capped=not self.delta))
        return Blocks(_block(self.d_k, 64), 0, self._options(4, capped=True))

    def walk(self, walkers: int) -> Blocks:
        """Blocks of the walks, whose state is in registers; narrow ones where ``walkers`` heads are few."""
        BK = _block(self.d_k, self.d_k)
        BV = _block(self.d_v, 64 if self.narrow and BK <= 128 and not self.delta else 32)
        while BV > 16 and walkers * triton.cdiv(self.d_v, BV) < MULTIPROCESSORS:
            BV //= 2
        state = BK * BV * (1 if self.narrow else 2)
        return Blocks(BK, BV, {"num_warps": 8 if state >= 8192 else 4, "num_stages": 2})

    def gradients(self) -> Blocks:
        """Blocks of the gradients."""
        BK = 64 if self.narrow and not (self.vector or self.delta) else 32
        BV = 64 if self.narrow and (self.vector or not self.delta) else 32
        return Blocks(_block(self.d_k, BK), _block(self.d_v, BV), self._options(8, capped=not self.vector))

    def _options(self, warps: int, *, capped: bool) -> dict[str, int]:
        """Capped, a thread has so few registers that several programs share a multiprocessor."""
        if not self.narrow:
            return {"num_warps": 4}
        if not capped or torch.version.hip is not None:
            return {"num_warps": warps}
        return {"num_warps": warps, "maxnreg": 128 if warps == 8 else 168}


def _block(width: int, largest: int) -> int:
    return int(max(min(triton.next_power_of_2(width), triton.next_power_of_2(largest)), 16))


def numbers(q: Tensor) -> tuple[Any, ...]:
    """Types of the sums and of the factors of products, and how the matrix units multiply them.

    The interpreter's arithmetic in bfloat16 is wrong.
    """
    narrow = {torch.float16: tl.float16, torch.bfloat16: tl.float32 if interpreted() else tl.bfloat16}
    wide = TYPES[accumulator_dtype(q)]
    return wide, narrow.get(q.dtype, wide), "tf32x3" if q.dtype == torch.float32 else "ieee"
