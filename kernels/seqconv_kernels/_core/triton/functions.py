"""What the kernels in Triton share: functions compiled into them. Importing this module imports Triton.

Letters in all kernels: a tensor is ``(batch, length, heads, width)`` or ``(batch, length, channels)``; a *token* is a
position that counts on through the batch (``row * length + step``), packed or not; ``ACC`` is the dtype in which a
kernel accumulates.
"""

from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..native import dense_rows

TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class View(NamedTuple):
    """A tensor (batch, length[, heads], width), dense along its width, as a kernel takes it.

    Attributes:
        ptr: its first element.
        row: stride of the batch.
        step: stride of the length.
        head: stride of the heads, 0 without such an axis.
        share: how many heads of the state read the same head of this tensor (grouped queries, keys or values).
    """

    ptr: Any
    row: int
    step: int
    head: int
    share: int


def view(tensor: Tensor, heads: int | None = None) -> View:
    """The tensor, copied if its last axis is not dense; ``heads`` of the state share its own in equal groups."""
    dense = dense_rows(tensor)
    if dense.dim() == 3:
        return View(dense, dense.stride(0), dense.stride(1), 0, 1)
    row, step, head, _ = dense.stride()
    return View(dense, row, step, head, 1 if heads is None else heads // dense.shape[2])


@triton.jit
@no_type_check
def address(x, token, length):
    """Address of the first channel of a token in the view ``x``, in 64 bits: a tensor may have more than 2^31 elements.

    Kernels add 32-bit offsets to it, which are cheaper and suffice within a chunk.
    """
    # Tokens count through the batch, rows of a view may be any distance apart (slices, expanded batches).
    row = token // length
    return x.ptr + row * x.row + (token - row * length) * x.step


@triton.jit
@no_type_check
def head_address(x, token, length, head):
    """The same in a tensor with heads: of the head that ``head`` of the state reads."""
    # Grouped heads: head // share is the one stored, so no head is copied for the heads of the state that read it.
    return address(x, token, length) + (head // x.share).to(tl.int64) * x.head


@triton.jit
@no_type_check
def load_tile(ptr, step, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) elements, ``step`` apart from row to row; zeros from ``rows`` and ``columns`` on."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    # (ROWS, COLUMNS) of 32-bit offsets from a 64-bit base; neighbouring threads read neighbouring columns.
    return tl.load(ptr + i * step + j, mask=(i < rows) & (j < columns), other=0)


@triton.jit
@no_type_check
def store_tile(ptr, step, value, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Store what :func:`load_tile` would load, in the dtype of the memory."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    tl.store(ptr + i * step + j, value.to(ptr.dtype.element_ty), mask=(i < rows) & (j < columns))


@triton.jit
@no_type_check
def load_vector(ptr, step, rows, ROWS: tl.constexpr, ACC: tl.constexpr):
    """(ROWS,) elements, ``step`` apart; zeros from ``rows`` on."""
    i = tl.arange(0, ROWS)
    # A strided access: one number per row of a tensor with a width of one, or one column of a wider one.
    return tl.load(ptr + i * step, mask=i < rows, other=0).to(ACC)


@triton.jit
@no_type_check
def sigmoid(x):
    """The logistic function; its only exponential has a non-positive argument, so nothing overflows."""
    # exp(-|x|) lies in (0, 1]: 1 / (1 + e^-x) for x >= 0, and e^x / (1 + e^x), the same number, below.
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1 + small)


@triton.jit
@no_type_check
def silu_slope(x, gate):
    """Derivative of ``x sigmoid(x)``, from ``gate = sigmoid(x)``."""
    return gate * (1 + x * (1 - gate))
