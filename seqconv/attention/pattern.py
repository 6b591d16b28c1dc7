"""Who sees whom: the whole past, a sliding window, or chunks that do not overlap.

Positions count from a row's first real token, so that chunks begin there and left padding changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error


@dataclass(frozen=True)
class Pattern:
    """Which keys a query sees.

    Attributes:
        causal: none after its own.
        window: only those fewer than ``window`` tokens away.
        chunk: only those of its own chunk of ``chunk`` tokens.
        count_padding: positions (and with them chunks) count from the first column instead, padding included.

    Raises:
        ValueError: both a window and chunks, or sizes below 1.
    """

    causal: bool
    window: int | None = None
    chunk: int | None = None
    count_padding: bool = False

    def __post_init__(self) -> None:
        got = f"window={self.window}, attention_chunk_size={self.chunk}"
        if self.window is not None and self.chunk is not None:
            raise argument_error("attention", got, "a window or chunks", "set one of them to None")
        if self.size is not None and self.size < 1:
            raise argument_error("attention", got, "a size of at least 1", "set it to None to see the whole sequence")

    @property
    def size(self) -> int | None:
        """Tokens in a window or chunk; ``None`` without a bound."""
        return self.window if self.chunk is None else self.chunk


class View(NamedTuple):
    """The queries and keys of a block, relative to each other.

    Attributes:
        causal: no query sees a key after its own.
        window: only keys fewer than ``window`` tokens away; ``None``: all of the block.
        position: of each query, from 0 (within its chunk if there are chunks).
        offset: index of the key minus that of the query.
        reach: largest distance at which a query sees a key, plus one.
        keys: which keys are real; ``None``: all.
        span: how many keys back each query sees; ``None``: the pattern alone decides.
    """

    causal: bool
    window: int | None
    position: Int[Tensor, "#batch #blocks queries"]
    offset: Int[Tensor, "queries keys"]
    reach: int
    keys: Bool[Tensor, "#batch blocks keys"] | None = None
    span: Int[Tensor, "batch #blocks queries"] | None = None


def is_plain(view: View) -> bool:
    """Whether causality (if any) alone decides who sees whom."""
    return view.keys is None and view.span is None and view.window is None


def visible(view: View) -> Bool[Tensor, "#batch #blocks queries keys"]:
    """True where the query sees the key; every query sees its own key, so that no row is empty."""
    see = view.offset <= 0 if view.causal else torch.ones_like(view.offset, dtype=torch.bool)
    if view.window is not None:
        see = see & (view.offset.abs() < view.window)
    see = see[None, None]
    if view.keys is not None:
        see = see & view.keys[:, :, None, :]
    if view.span is not None:
        see = see & (-view.offset <= view.span[..., None])
    return see | (view.offset == 0)


Attend = Callable[[Tensor, Tensor, Tensor, View], Tensor]
"""Queries (batch, blocks, queries, …), keys and values (batch, blocks, keys, …) and their view, to outputs."""


def attend_apart(attend: Attend, q: Tensor, k: Tensor, v: Tensor, view: View) -> Tensor:
    """``attend``, with keys and values that are not finite kept from the queries that do not see them.

    A masked weight is zero, and zero times NaN is NaN: such tokens are left out of the products, and the outputs of
    the queries that see one become NaN.
    """
    bad = ~(k.isfinite().flatten(3).all(-1) & v.isfinite().flatten(3).all(-1))
    k, v = (t.masked_fill(_beyond(bad, t), 0) for t in (k, v))
    y = attend(q, k, v, view)
    if not is_plain(view):
        reached = (visible(view) & bad[:, :, None, :]).any(-1)
    elif view.causal:
        reached = bad.cumsum(-1) > 0
    else:
        reached = bad.any(-1, keepdim=True).expand(*bad.shape[:2], q.shape[2])
    return y.masked_fill(_beyond(reached, y), torch.nan)


def _beyond(rows: Tensor, like: Tensor) -> Tensor:
    """A tensor of (batch, blocks, tokens) with axes of one for the rest of ``like``."""
    return rows.view(*rows.shape, *[1] * (like.dim() - rows.dim()))
