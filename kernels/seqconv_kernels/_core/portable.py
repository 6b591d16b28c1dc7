"""Computations for which ONNX has no operator, composed of ones that it has; elsewhere PyTorch's own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator.sizes import is_exporting_to_onnx

__all__ = ["running_max", "solve", "solve_unit_lower"]

NEWTON_STEPS = 40
"""Enough for condition numbers up to 1e5."""


def solve_unit_lower(matrix: Tensor, known: Tensor) -> Tensor:
    """X of ``(I + L) X = known``, where L is what ``matrix`` (..., n, n) holds strictly below its diagonal."""
    if not is_exporting_to_onnx():
        solution: Tensor = torch.linalg.solve_triangular(matrix, known, upper=False, unitriangular=True)
        return solution
    return _inverse_unit_lower(matrix) @ known


def solve(matrix: Tensor, known: Tensor) -> Tensor:
    """X of ``matrix X = known`` for (..., n, n) and (..., n, columns)."""
    if not is_exporting_to_onnx():
        solution: Tensor = torch.linalg.solve(matrix, known)
        return solution
    norms = matrix.abs().sum(-1).amax(-1) * matrix.abs().sum(-2).amax(-1)
    inverse = matrix.mT / norms[..., None, None]
    for _ in range(NEWTON_STEPS):  # of Newton and Schulz, whose error is squared by each
        inverse = 2 * inverse - inverse @ (matrix @ inverse)
    first = inverse @ known
    return first + inverse @ (known - matrix @ first)


def running_max(x: Tensor) -> Tensor:
    """Largest of the values so far along axis 1."""
    if not is_exporting_to_onnx():
        return x.cummax(1).values
    shift = 1
    while shift < x.shape[1]:  # windows of twice the length
        x = torch.cat([x[:, :shift], torch.maximum(x[:, shift:], x[:, :-shift])], dim=1)
        shift *= 2
    return x


def _inverse_unit_lower(matrix: Tensor) -> Tensor:
    """Inverses of the diagonal blocks, doubled in size until they are one: ``[[A, 0], [C, B]]`` from A and B.

    The inverse of such a block is ``[[A', 0], [-B' C A', B']]``.
    """
    n = matrix.shape[-1]
    size = 1 << (n - 1).bit_length()
    matrix = F.pad(matrix, (0, size - n, 0, size - n))
    inverse = matrix.new_ones(*matrix.shape[:-2], size, 1, 1)
    width = 1
    while width < size:
        pairs = size // (2 * width)
        blocks = matrix.unflatten(-1, (pairs, 2 * width)).unflatten(-3, (pairs, 2 * width))
        diagonal = torch.stack([blocks[..., i, width:, i, :width] for i in range(pairs)], dim=-3)
        upper, lower = inverse.unflatten(-3, (pairs, 2)).unbind(-3)
        corner = -lower @ diagonal @ upper
        top = torch.cat([upper, torch.zeros_like(upper)], dim=-1)
        inverse = torch.cat([top, torch.cat([corner, lower], dim=-1)], dim=-2)
        width *= 2
    return inverse[..., 0, :n, :n]
