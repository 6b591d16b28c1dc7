"""Complex numbers from their stored real and imaginary parts."""

import torch
from torch import Tensor


def as_complex(parts: Tensor) -> Tensor:
    """The complex tensor whose parts are on the last axis of ``parts``, (..., 2); differentiable.

    Always a copy: ``torch.view_as_complex`` gives a tensor of the same address, and vectorised kernels crash on complex
    numbers that are not aligned to their size. A checkpoint file aligns its tensors to 8 bytes only.
    """
    return torch.complex(parts[..., 0], parts[..., 1])


def view_output_as_complex(parts: Tensor) -> Tensor:
    """The same without a copy, for memory that an op has just allocated: PyTorch aligns that to 64 bytes."""
    return torch.view_as_complex(parts.contiguous())
