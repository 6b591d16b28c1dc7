"""Whole sequences in parallel: cut into blocks, each attending to itself and, for a window, to its neighbours.

Cost O(length · block) instead of O(length²) where the pattern is bounded.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqconv_kernels._core.operator.sizes import known

from ..chunking import block_count, cut_blocks, join_blocks, roll_rows
from .pattern import Attend, Pattern, View, attend_apart


def attend_in_blocks(
    q: Float[Tensor, "batch length *query"],
    k: Float[Tensor, "batch length *key"],
    v: Float[Tensor, "batch length *value"],
    mask: Bool[Tensor, "batch length"] | None,
    pattern: Pattern,
    attend: Attend,
) -> Float[Tensor, "batch length *output"]:
    """Attention of a whole sequence; ``mask`` is True at real tokens, outputs elsewhere mean nothing."""
    if mask is None or pattern.count_padding:
        return _blocks(q, k, v, mask, pattern, attend)
    start = mask.to(torch.int64).argmax(1)
    q, k, v, mask = (roll_rows(t, start) for t in (q, k, v, mask))
    return roll_rows(_blocks(q, k, v, mask, pattern, attend), -start)


def _blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, pattern: Pattern, attend: Attend) -> Tensor:
    length = q.shape[1]
    size = length if pattern.size is None or known(length <= pattern.size) else pattern.size
    count = block_count(length, size)
    window = None if known(count == 1) else pattern.window
    back = 0 if window is None else 1
    ahead = 0 if pattern.causal else back
    index = torch.arange(size, device=q.device)
    position = torch.arange(count * size, device=q.device).view(count, size)
    view = View(
        pattern.causal,
        window,
        (position if pattern.chunk is None else index.expand_as(position))[None],
        torch.arange(size * (1 + back + ahead), device=q.device) - back * size - index[:, None],
        size,
        _real_keys(mask, length, count, size, back, ahead, q.device),
    )
    k, v = (_neighbours(cut_blocks(t, count, size), back, ahead) for t in (k, v))
    y: Tensor = join_blocks(attend_apart(attend, cut_blocks(q, count, size), k, v, view), length)
    return y


def _real_keys(
    mask: Tensor | None, length: int, count: int, size: int, back: int, ahead: int, device: torch.device
) -> Tensor | None:
    if mask is None:
        if not back and known(count * size == length):
            return None
        mask = torch.ones(1, length, dtype=torch.bool, device=device)
    return _neighbours(cut_blocks(mask, count, size), back, ahead)


def _neighbours(x: Tensor, back: int, ahead: int) -> Tensor:
    """Each block between those before and after it; zeros beyond the ends."""
    if not back and not ahead:
        return x
    count, edge = x.shape[1], x.new_zeros(x.shape[0], 1, *x.shape[2:])
    wide = torch.cat([edge] * back + [x] + [edge] * ahead, dim=1)
    return torch.cat([wide[:, i : i + count] for i in range(1 + back + ahead)], dim=2)
