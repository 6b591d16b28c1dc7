"""Boundaries of sequences as the originals give them: an index per token, or cumulated lengths with empty sequences.

The ops of seqconv take ``cu_seqlens`` over a batch of one, without empty segments.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

PADDING = -1
"""Index of a token that belongs to no sequence."""


@dataclass(frozen=True)
class Runs:
    """Runs of equal indices in the rows of a batch, laid one after the other.

    Attributes:
        bounds: first token of each run and the end, (runs + 1), int32.
        first: run in which each row begins, (batch).
        last: run in which each row ends, padding aside, (batch).
        padding: (batch, length), or ``None`` without padding.
        index: of the first token of each row, (batch).
    """

    bounds: Tensor
    first: Tensor
    last: Tensor
    padding: Tensor | None
    index: Tensor

    def pack(self, x: Tensor) -> Tensor:
        """(batch, length, ...) -> (1, batch * length, ...)."""
        return x.reshape(1, -1, *x.shape[2:])

    def unpack(self, y: Tensor, like: Tensor) -> Tensor:
        """The inverse of :meth:`pack`; zeros for padding."""
        y = y.reshape(*like.shape[:2], *y.shape[2:])
        if self.padding is None:
            return y
        return y.masked_fill(self.padding.reshape(*self.padding.shape, *[1] * (y.dim() - 2)), 0)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the number of runs is data
def runs_of(function: str, seq_idx: Tensor, shape: tuple[int, int]) -> Runs:
    """The runs of ``seq_idx`` (batch, length), whose neighbours of another index belong to another sequence.

    Raises:
        ValueError: another shape.
    """
    if tuple(seq_idx.shape) != shape:
        wanted = f"(batch, length) = {shape}"
        raise argument_error(function, f"seq_idx of shape {tuple(seq_idx.shape)}", wanted, "give an index per token")
    begins = torch.ones_like(seq_idx, dtype=torch.bool)
    begins[:, 1:] = seq_idx.diff(dim=1) != 0
    starts = begins.flatten().nonzero()[:, 0]
    bounds = torch.cat([starts, starts.new_tensor([seq_idx.numel()])]).int()
    of_token = begins.flatten().cumsum(0).view(shape) - 1
    padding = seq_idx == PADDING
    last = of_token.masked_fill(padding, 0).amax(1)
    return Runs(bounds, of_token[:, 0], last, padding if bool(padding.any()) else None, seq_idx[:, 0])


@torch.compiler.disable  # type: ignore[untyped-decorator]  # where sequences are empty is data
def without_empty(cu_seqlens: Tensor) -> tuple[Tensor, Tensor | None]:
    """The bounds without empty sequences, and the numbers of those that stay (``None`` if all do)."""
    stay = cu_seqlens.diff().nonzero()[:, 0]
    if len(stay) == len(cu_seqlens) - 1:
        return cu_seqlens, None
    return torch.cat([cu_seqlens[:1], cu_seqlens[1:][stay]]), stay


def states_of_all(cu_seqlens: Tensor, stay: Tensor | None, initial: Tensor | None, final: Tensor) -> Tensor:
    """Final states of all sequences: of an empty one its initial state, or zero."""
    if stay is None:
        return final
    rows = final.new_zeros(len(cu_seqlens) - 1, *final.shape[1:]) if initial is None else initial.to(final.dtype)
    return rows.index_copy(0, stay, final)


def reversed_order(cu_seqlens: Tensor) -> Tensor:
    """The order of tokens in which every sequence runs backwards; its own inverse."""
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    both = torch.repeat_interleave(starts + ends, ends - starts)
    return both - 1 - torch.arange(len(both), device=cu_seqlens.device)
