"""Whole sequences in parallel: cut into blocks, each attending to itself and, for a window, to its neighbours.

Cost O(length · block) instead of O(length²) where the pattern is bounded.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from seqconv_kernels._core.composed import Composed
from seqconv_kernels._core.sizes import known

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
    q, k, v, mask = (_roll(t, start) for t in (q, k, v, mask))
    return _roll(_blocks(q, k, v, mask, pattern, attend), -start)


def _blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, pattern: Pattern, attend: Attend) -> Tensor:
    length = q.shape[1]
    size = length if pattern.size is None or known(length <= pattern.size) else pattern.size
    count = _block_count(length, size)
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
    k, v = (_neighbours(_CUT(t, count, size), back, ahead) for t in (k, v))
    y: Tensor = _JOIN(attend_apart(attend, _CUT(q, count, size), k, v, view), length)
    return y


def _real_keys(
    mask: Tensor | None, length: int, count: int, size: int, back: int, ahead: int, device: torch.device
) -> Tensor | None:
    if mask is None:
        if not back and known(count * size == length):
            return None
        mask = torch.ones(1, length, dtype=torch.bool, device=device)
    return _neighbours(_CUT(mask, count, size), back, ahead)


def _block_count(length: int, size: int) -> int:
    """Blocks that hold the sequence; where sizes are open one more than may be needed, as compilers treat 1 apart."""
    if known(length <= size):
        return 1
    if known(length % size == 0):
        return length // size
    return length // size + (2 if torch.compiler.is_compiling() else 1)


def _cut(x: Tensor, count: int, size: int) -> Tensor:
    """(batch, length, ...) to (batch, blocks, block, ...), zeros after the end."""
    missing = count * size - x.shape[1]
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    blocks: Tensor = x.unflatten(1, (count, size))
    return blocks


def _join(x: Tensor, length: int) -> Tensor:
    """(batch, blocks, block, ...) to (batch, length, ...)."""
    return x.flatten(1, 2)[:, :length]


_CUT = Composed("cut_blocks", _cut, lambda x, count, size: x.new_empty(x.shape[0], count, size, *x.shape[2:]))
_JOIN = Composed("join_blocks", _join, lambda x, length: x.new_empty(x.shape[0], length, *x.shape[3:]))


def _neighbours(x: Tensor, back: int, ahead: int) -> Tensor:
    """Each block between those before and after it; zeros beyond the ends."""
    if not back and not ahead:
        return x
    count, edge = x.shape[1], x.new_zeros(x.shape[0], 1, *x.shape[2:])
    wide = torch.cat([edge] * back + [x] + [edge] * ahead, dim=1)
    return torch.cat([wide[:, i : i + count] for i in range(1 + back + ahead)], dim=2)


def _roll(x: Tensor, start: Tensor) -> Tensor:
    """Each row from its own start on, what was before it after its end."""
    length = x.shape[1]
    index = (torch.arange(length, device=x.device) + start[:, None]) % length
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))
