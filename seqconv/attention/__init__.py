"""Attention over a bounded or growing past: who sees whom, in blocks for sequences and from a cache for streams."""

from .cache import CacheState, attend_from_cache, init_cache, token_positions
from .chunked import attend_in_blocks
from .pattern import Pattern, View

__all__ = [
    "CacheState",
    "Pattern",
    "View",
    "attend_from_cache",
    "attend_in_blocks",
    "init_cache",
    "token_positions",
]
