"""Who sees whom: the whole past, a sliding window, or chunks that do not overlap.

Positions count from a row's first real token, so that chunks begin there and left padding changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from seqconv_kernels.errors import refusal


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
        got = f"window={self.window}, chunk_size={self.chunk}"
        if self.window is not None and self.chunk is not None:
            raise refusal("attention", got, "a window or chunks", "set one of them to None")
        if self.size is not None and self.size < 1:
            raise refusal("attention", got, "a size of at least 1", "set it to None to see the whole sequence")

    @property
    def size(self) -> int | None:
        """Tokens in a window or chunk; ``None`` without a bound."""
        return self.window if self.chunk is None else self.chunk


@dataclass(frozen=True)
class View:
    """The queries and keys of a block, relative to each other.

    Attributes:
        pattern: the chunks are already cut where ``span`` is not given.
        position: of each query, from 0 (within its chunk if there are chunks).
        offset: index of the key minus that of the query.
        keys: which keys are real; ``None``: all.
        span: how many keys back each query sees; ``None``: the pattern alone decides.
    """

    pattern: Pattern
    position: Int[Tensor, "#batch #blocks queries"]
    offset: Int[Tensor, "queries keys"]
    keys: Bool[Tensor, "#batch blocks keys"] | None = None
    span: Int[Tensor, "batch #blocks queries"] | None = None

    @property
    def plain(self) -> bool:
        """Whether causality (if any) decides alone."""
        return self.keys is None and self.span is None and self.pattern.window is None

    def visible(self) -> Bool[Tensor, "#batch #blocks queries keys"]:
        """True where the query sees the key; every query sees its own key, so that no row is empty."""
        see = self.offset <= 0 if self.pattern.causal else self.offset == self.offset
        if self.pattern.window is not None:
            see = see & (self.offset.abs() < self.pattern.window)
        see = see[None, None]
        if self.keys is not None:
            see = see & self.keys[:, :, None, :]
        if self.span is not None:
            see = see & (-self.offset <= self.span[..., None])
        return see | (self.offset == 0)


Attend = Callable[[Tensor, Tensor, Tensor, View], Tensor]
"""Queries (batch, blocks, queries, …), keys and values (batch, blocks, keys, …) and their view, to outputs."""
