"""The inputs of the recurrences with a matrix state, as the operators take them."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.operator.inputs import Bounds, differentiable
from .._core.packing import segment_count
from .._core.precision import accumulation_dtype


class Inputs(NamedTuple):
    """Tokens of (batch, length, heads, width); a tensor with fewer heads than another is shared by neighbours.

    Attributes:
        log_decay: width of d_k, or 1 or none for a scalar.
        beta: width of d_v, or 1 or none for a scalar; ``None`` for plain linear attention.
        initial_state: before the first token, (segments, heads, d_k, d_v).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    scale: float
    initial_state: Tensor | None
    cu_seqlens: Bounds | None

    @property
    def tokens(self) -> tuple[Tensor | None, ...]:
        """The tensors with a length, in order."""
        return self.q, self.k, self.v, self.log_decay, self.beta

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the states and of all sums."""
        return accumulation_dtype(*differentiable(self).values())

    @property
    def segments(self) -> int | torch.SymInt:
        """Rows of the states."""
        return segment_count(self.cu_seqlens, self.q)

    @property
    def heads(self) -> int | torch.SymInt:
        """Heads of the states: the most that any tensor has (a symbol while the compiler keeps shapes open)."""
        return max(self.q.shape[2], self.k.shape[2], self.v.shape[2])

    @property
    def saves(self) -> bool:
        """Whether the backward pass reads more than the inputs: the errors of the delta rule."""
        return self.beta is not None
