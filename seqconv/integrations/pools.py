"""States that a caller keeps, moved on in place: one row per sequence, or a pool whose rows an index chooses."""

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error


def check_indices(function: str, name: str, indices: Tensor | None, batch: int) -> None:
    """Require one row of the pool per row of the batch.

    Raises:
        ValueError: another shape or dtype.
    """
    if indices is None:
        return
    if tuple(indices.shape) != (batch,) or indices.dtype not in (torch.int32, torch.int64):
        got = f"{name} of shape {tuple(indices.shape)} and dtype {indices.dtype}"
        raise argument_error(function, got, f"({batch},) of int32 or int64", "give a row per sequence, -1 for none")


def read(states: Tensor, indices: Tensor | None) -> Tensor:
    """A copy of the states of the batch; of a negative index anything."""
    return states.clone() if indices is None else states[indices.clamp(min=0).long()]


def write(states: Tensor, after: Tensor, indices: Tensor | None) -> None:
    """Move the states on; rows with a negative index go nowhere."""
    if indices is None:
        states.copy_(after)
        return
    used = indices >= 0
    states[indices[used].long()] = after[used].to(states.dtype)


def blank(y: Tensor, indices: Tensor | None) -> Tensor:
    """The output, zero in rows with a negative index."""
    return y if indices is None else y.masked_fill((indices < 0).view(-1, *[1] * (y.dim() - 1)), 0)
