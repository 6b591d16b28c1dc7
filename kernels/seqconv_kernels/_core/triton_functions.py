"""What the kernels in Triton share: functions compiled into them. Importing this module imports Triton."""

from typing import no_type_check

import torch
import triton
import triton.language as tl

TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
@no_type_check
def row_at(x, start, length, row_stride, step_stride):
    """Address of the first channel at position ``start``, which counts on through the batch."""
    row = start // length
    return x + row * row_stride + (start - row * length) * step_stride


@triton.jit
@no_type_check
def sigmoid(x):
    """The logistic function; no argument overflows."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1 + small)
