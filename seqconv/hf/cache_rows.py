"""Requests that share a batch: caches of their own become rows of one, and rows caches again.

Shorter contexts get padding in front, which the models leave out; states keep their rows, in one tensor where they have
one form and set by set where they do not (:mod:`seqconv.rows`).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ..rows import join
from .cache import SeqConvCache


def concat_caches(caches: Sequence[SeqConvCache]) -> SeqConvCache:
    """One cache with the rows of all, to read their next tokens together.

    The caches must not be used again: their memory may be that of the new one.

    Raises:
        ValueError: no cache, or one that has read nothing.
    """
    states = [cache.state for cache in caches if cache.state is not None]
    if not caches or len(states) < len(caches):
        got, wanted = f"{len(caches)} caches, {len(states)} of which have read tokens", "caches that have read some"
        raise argument_error("concat_caches", got, wanted, "read every prompt with a cache of its own first")
    longest = max(cache.get_seq_length() for cache in caches)
    masks = [F.pad(_whole_mask(cache), (longest - cache.get_seq_length(), 0)) for cache in caches]
    mask = torch.cat(masks)
    rows = torch.arange(len(mask), device=mask.device)
    joined: Any = join(list(rows.split([len(part) for part in masks])), list(states))
    return caches[0].other(joined, mask, longest, len(rows))


def split_cache(cache: SeqConvCache) -> list[SeqConvCache]:
    """A cache of its own for every row, without the padding in front of it."""
    if cache.state is None:
        return []
    found, seen = [], cache.get_seq_length()
    for row, mask in enumerate(_whole_mask(cache).split(1)):
        padding = int(mask[0].byte().argmax()) if bool(mask.any()) else seen
        state = cache.state.select(torch.tensor([row], device=mask.device))
        found.append(cache.other(state, mask[:, padding:], seen - padding, 1))
    return found


def _whole_mask(cache: SeqConvCache) -> Tensor:
    """True at real tokens so far, (batch, seen)."""
    if cache.mask is not None:
        return cache.mask
    assert cache.state is not None
    device = next(cache.state._leaves()).tensor.device
    return torch.ones(cache.batch_size, cache.get_seq_length(), dtype=torch.bool, device=device)
