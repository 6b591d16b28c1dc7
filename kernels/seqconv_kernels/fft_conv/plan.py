"""How a long convolution is cut into matrix products: transforms of M = R x N1 x N2 points, and their tables.

Right-angle convolution: with ``w = exp(i pi / 2M)`` the real sequences ``v_n w^n`` and ``h_n w^n`` convolve circularly
over M complex points, and the real part of the result over ``w^n`` is the causal convolution: what wraps around is
multiplied by ``w^M = i``. So M points serve M inputs, without zero padding, at the frequencies
``2 pi (k - 1/4) / M``.

Monarch decomposition of the transform (Dao et al., 2022; Fu et al., 2023): with ``n = n1 N2 + n2`` and
``k = k1 + N1 k2``::

    V[k1, k2] = sum_n2 W_N2^(n2 k2) W_M^(n2 k1) sum_n1 W_N1^(n1 k1) v[n1, n2],     W_N = exp(-2 pi i / N)

two matrix products with an elementwise one between. Their factors are powers of two times unit numbers, such that
half precision holds both a constant and noise: a transform scales by about ``M^(-3/4)``.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

SMALLEST = 256
"""Points of the smallest transform, and of the grid on which a spectrum is cut off."""
LARGEST = {torch.bfloat16: 8192, torch.float16: 8192, torch.float32: 2048, torch.float64: 2048}
"""Points of the largest transform that one program holds, by dtype; more are split over R outer points.

16,384 complex points in float32 are half of a multiprocessor's registers before any temporary: compiled for compute
capability 9.0 with 8 warps the convolution then spills 1.3 KB per thread and the filter's gradient 4 KB, 2 MB of
traffic per transform that itself reads and writes 0.1 MB. The outer transform moves 0.3 MB more and spills nothing.
"""
LARGEST_INNER = {torch.bfloat16: 8192, torch.float16: 8192, torch.float32: 1024, torch.float64: 1024}
"""The same under an outer transform, whose results are complex: wide dtypes do not fit in shared memory otherwise."""
LEAST_OUTER, WANTED_OUTER = 16, 128
"""Outer points: what the matrix units take at least, and from where on a longer inner transform costs less."""
TILES = {torch.bfloat16: 8192, torch.float16: 8192, torch.float32: 4096, torch.float64: 1024}
"""Points that a program works on at a time: several channels where the transform is smaller."""
OPERATIONS_PER_BYTE = 200
"""Operations of the matrix units in the time of a byte from memory, to weigh one against the other."""


def grid_size(length: int) -> int:
    """Points of the transform over ``length`` inputs as a whole."""
    return max(SMALLEST, 1 << (length - 1).bit_length())


class Plan(NamedTuple):
    """Sizes of one convolution.

    Attributes:
        size: points M of a transform.
        outer: R, over global memory; 1 where one program holds the transform.
        rows: N1, at least N2.
        columns: N2.
        kept: columns k2 of the spectrum that may differ from zero.
        overlap: inputs that a block shares with the one before.
        blocks: of the sequence, one transform each.
    """

    size: int
    outer: int
    rows: int
    columns: int
    kept: tuple[int, ...]
    overlap: int
    blocks: int

    @property
    def inner(self) -> int:
        """Points of the transform that one program holds."""
        return self.rows * self.columns

    @property
    def step(self) -> int:
        """Outputs of a block."""
        return self.size - self.overlap

    @classmethod
    def make(cls, length: int, taps: int, dtype: torch.dtype, frequency_limit: float | None) -> "Plan":
        """The cheapest: one transform over all inputs, or shorter ones over blocks that overlap by the filter."""
        whole = cls._of(grid_size(length), 0, 1, dtype, frequency_limit)
        if frequency_limit is not None:
            return whole
        sizes = [SMALLEST << i for i in range((LARGEST[dtype] // SMALLEST).bit_length())]
        steps = [(size, size - taps + 1) for size in sizes if taps <= size < whole.size]
        partial = [cls._of(size, taps - 1, -(-length // step), dtype, None) for size, step in steps]
        return min([whole, *partial], key=Plan._work)

    @classmethod
    def _of(cls, size: int, overlap: int, blocks: int, dtype: torch.dtype, limit: float | None) -> "Plan":
        inner, largest = size, LARGEST_INNER[dtype]
        if size > LARGEST[dtype]:
            wanted = min(max(size * 2 // largest, LEAST_OUTER), WANTED_OUTER)
            inner = min(size // wanted, largest)
        columns = 1 << (inner.bit_length() - 1) // 2
        kept = _kept_columns(size, columns, limit)
        return cls(size, size // inner, inner // columns, columns, kept, overlap, blocks)

    def _work(self) -> int:
        bytes_per_point = 8 if self.outer == 1 else 24
        operations = 8 * self.rows + 8 * (self.columns + len(self.kept)) + (8 * self.outer if self.outer > 1 else 0)
        return self.blocks * self.size * (bytes_per_point * OPERATIONS_PER_BYTE + operations)


def kept_frequencies(size: int, limit: float) -> Tensor:
    """Which of the M frequencies lie below ``limit`` of the Nyquist frequency, with half a bin to spare.

    The k-th one is at ``|4 k - 1| / 2M`` of it for k < M/2, and the others at those of k - M.
    """
    k = torch.arange(size)
    k = torch.where(k < size // 2, k, k - size)
    return (4 * k - 1).abs() + 1 < 2 * size * limit


def _kept_columns(size: int, columns: int, limit: float | None) -> tuple[int, ...]:
    """The columns k2 that hold a kept frequency, filled up to a power of two of at least 16."""
    if limit is None:
        return tuple(range(columns))
    used = kept_frequencies(size, limit).view(columns, -1).any(1)
    count = max(16, 1 << max(int(used.sum()) - 1, 0).bit_length())
    order = torch.argsort(~used, stable=True)[:count]
    return tuple(sorted(order.tolist()))


class Tables(NamedTuple):
    """Real and imaginary parts (first axis) of the constant factors, for one program's transform."""

    first: Tensor
    twiddle: Tensor
    second: Tensor


class OuterTables(NamedTuple):
    """The same for the outer transform; its twiddle is ``coarse[k1, n2 // block] fine[k1, n2 % block]``."""

    first: Tensor
    coarse: Tensor
    fine: Tensor


def _scale(n: int) -> float:
    """A power of two near ``n^(-3/4)``."""
    return 2.0 ** -round(0.75 * math.log2(n))


def inverse_scale(*sizes: int) -> float:
    """What is missing after a transform over these factors and back, where both carry :func:`_scale`."""
    return 1 / math.prod(n * _scale(n) ** 2 for n in sizes)


def forward_scale(*sizes: int) -> float:
    """What is missing after a transform over these factors."""
    return 1 / math.prod(map(_scale, sizes))


def _points(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)


def _parts(turns: Tensor, scale: float, like: torch.dtype, device: torch.device) -> Tensor:
    """``scale exp(2 pi i turns)``."""
    angle = 2 * math.pi * torch.remainder(turns, 1)
    return (scale * torch.stack([angle.cos(), angle.sin()])).to(like).to(device)


@lru_cache(maxsize=64)
def tables(plan: Plan, dtype: torch.dtype, device: torch.device) -> Tables:
    """Of the transform in one program; it carries the twist ``w^n`` unless there is an outer one."""
    n1, n2, n = plan.rows, plan.columns, plan.inner
    twist = 0.25 if plan.outer == 1 else 0.0
    a, b = _points(n1), _points(n2)
    first = (-a[:, None] * a + twist * a) / n1
    twiddle = (-a[:, None] * b + twist * b) / n
    second = -b[:, None] * torch.tensor(plan.kept) / n2
    parts = ((first, _scale(n1)), (twiddle, 1.0), (second, _scale(n2)))
    return Tables(*(_parts(turns, scale, dtype, device) for turns, scale in parts))


@lru_cache(maxsize=64)
def outer_tables(plan: Plan, block: int, dtype: torch.dtype, device: torch.device) -> OuterTables:
    """Of the outer transform, ``n = n1 inner + n2`` and ``k = k1 + outer k'``, with the twist; ``block`` divides."""
    a = _points(plan.outer)
    first = (-a[:, None] * a + 0.25 * a) / plan.outer
    rate = (0.25 - a[:, None]) / plan.size
    coarse, fine = rate * block * _points(plan.inner // block), rate * _points(block)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return OuterTables(
        _parts(first, _scale(plan.outer), dtype, device),
        _parts(coarse, 1.0, wide, device),
        _parts(fine, 1.0, wide, device),
    )


@lru_cache(maxsize=16)
def spectral_mask(plan: Plan, limit: float, device: torch.device) -> Tensor:
    """1 at kept frequencies, 0 elsewhere, (outer, rows, kept columns) as a spectrum is stored."""
    keep = kept_frequencies(plan.size, limit).view(plan.columns, plan.rows, plan.outer)
    return keep[list(plan.kept)].permute(2, 1, 0).float().contiguous().to(device)
