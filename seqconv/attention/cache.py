"""Streams: keys and values kept as far back as any later query can see, right-aligned, newest last."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.operator.sizes import known

from ..state import State, state_class
from .pattern import Attend, Pattern, View, attend_apart

LEAST_PLACES = 64
"""Tokens that a cache is allocated for when it grows in place."""


class _InPlace(State):
    """What a cache that grows in place knows and its copies do without, so no field of it.

    Attributes:
        spare: tensors that key and value are the beginning of, with places for later tokens.
    """

    spare: tuple[Tensor, Tensor] | None = None


@state_class
class CacheState(_InPlace):
    """Keys and values of the past, oldest first.

    Attributes:
        key, value: of the last tokens; a row with fewer tokens has padding in front of them.
        tokens: real tokens of each row so far.
        seen: positions counted so far; differs from ``tokens`` only where padding is counted too.
        capacity: tokens that a cache of fixed size holds, with padding in front of fewer; ``None``: it grows.
    """

    key: Float[Tensor, "batch past *key"]
    value: Float[Tensor, "batch past *value"]
    tokens: Int[Tensor, " batch"]
    seen: Int[Tensor, " batch"]
    capacity: int | None = None

    growing: ClassVar[frozenset[str]] = frozenset({"key", "value"})
    time_axis: ClassVar[int | None] = 1
    padded_in_front: ClassVar[bool] = True

    def with_capacity(self, length: int) -> "CacheState":
        """The same tokens in a cache of fixed size."""
        key, value = (_padded(t, length) for t in (self.key, self.value))
        return CacheState(key, value, self.tokens, self.seen, length)


def init_cache(
    batch_size: int, key: tuple[int, ...], value: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> CacheState:
    """The empty cache; ``key`` and ``value`` are the sizes of one token's."""
    kept = [torch.zeros(batch_size, 0, *size, device=device, dtype=dtype) for size in (key, value)]
    counts = [torch.zeros(batch_size, device=device, dtype=torch.int64) for _ in range(2)]
    return CacheState(kept[0], kept[1], counts[0], counts[1])


def with_next_token(state: CacheState) -> CacheState:
    """The cache with one more token, whose key and value are yet to be written into its last place.

    Places are allocated for as many tokens as there are, so that the cache is not copied for every token.
    """
    past = state.key.shape[1]
    spare = state.spare
    if spare is None or spare[0].shape[1] == past or spare[0].data_ptr() != state.key.data_ptr():
        spare = _with_places(state.key), _with_places(state.value)
    after = CacheState(spare[0][:, : past + 1], spare[1][:, : past + 1], state.tokens + 1, state.seen + 1)
    after.spare = spare
    return after


def _with_places(x: Tensor) -> Tensor:
    """The tokens at the beginning of a tensor for twice as many."""
    wide = x.new_empty(x.shape[0], max(2 * x.shape[1], LEAST_PLACES), *x.shape[2:])
    wide[:, : x.shape[1]] = x
    return wide


def token_positions(
    state: CacheState, length: int, mask: Bool[Tensor, "batch length"] | None
) -> Int[Tensor, "batch length"]:
    """Index of each token among the real tokens of its row; -1 before the first."""
    if mask is None:
        return state.tokens[:, None] + torch.arange(length, device=state.tokens.device)
    return state.tokens[:, None] + mask.cumsum(1) - 1


def attend_from_cache(
    q: Float[Tensor, "batch length *query"],
    k: Float[Tensor, "batch length *key"],
    v: Float[Tensor, "batch length *value"],
    state: CacheState,
    mask: Bool[Tensor, "batch length"] | None,
    pattern: Pattern,
    attend: Attend,
) -> tuple[Float[Tensor, "batch length *output"], CacheState]:
    """Causal attention of new tokens after those of the cache, and the cache after them.

    Where the pattern is bounded the tokens come in chunks of its size, so that no more than size² scores exist.
    """
    size = q.shape[1] if pattern.size is None else pattern.size
    if torch.compiler.is_compiling() or q.shape[1] <= size:  # an open length has no number of chunks
        return _attend_chunk(q, k, v, mask, state, pattern, attend)
    masks = [None] * -(-q.shape[1] // size) if mask is None else mask.split(size, dim=1)
    outputs = []
    for chunk in zip(q.split(size, dim=1), k.split(size, dim=1), v.split(size, dim=1), masks, strict=True):
        y, state = _attend_chunk(*chunk, state, pattern, attend)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _attend_chunk(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, state: CacheState, pattern: Pattern, attend: Attend
) -> tuple[Tensor, CacheState]:
    past, length = state.key.shape[1], q.shape[1]
    _check_capacity(state, length)
    token = token_positions(state, length, mask)
    counted = state.seen[:, None] + torch.arange(length, device=q.device) if pattern.count_padding else token
    position = counted.clamp(min=0)
    if pattern.chunk is not None:
        position = position % pattern.chunk
    span = token.clamp(min=0)
    span = span if pattern.chunk is None else torch.minimum(span, position)
    index = torch.arange(past + length, device=q.device)
    offset = index - past - index[:length, None]
    whole = known(past == 0) and mask is None and pattern.chunk is None
    reach = past + length if pattern.size is None else torch.sym_min(past + length, pattern.size)
    view = View(True, pattern.window, position[:, None], offset, reach, None, None if whole else span[:, None])
    key = torch.cat([state.key, k.to(state.key.dtype)], dim=1)
    value = torch.cat([state.value, v.to(state.value.dtype)], dim=1)
    wide = torch.promote_types(key.dtype, q.dtype)  # a cache may be kept narrower than the activations
    heads = (q[:, None], key[:, None].to(wide), value[:, None].to(wide))
    # A single query sees all tokens that are kept: there is nothing to keep apart.
    y = attend(*heads, view) if length == 1 else attend_apart(attend, *heads, view)
    y = y[:, 0]
    if pattern.size is not None and (state.capacity is None or state.capacity >= pattern.size):
        key, value = (_LAST(t, pattern.size - 1) for t in (key, value))
    elif state.capacity is not None:
        key, value = (t[:, -state.capacity :] for t in (key, value))
    return y, CacheState(key, value, token[:, -1] + 1, counted[:, -1] + 1, state.capacity)


def _padded(x: Tensor, length: int) -> Tensor:
    """At least ``length`` tokens, with zeros in front."""
    missing = max(0, length - x.shape[1])
    return torch.cat([x.new_zeros(x.shape[0], missing, *x.shape[2:]), x], dim=1)


def _check_capacity(state: CacheState, length: int) -> None:
    """Raise where tokens would leave a cache of fixed size that attention still has to see."""
    if state.capacity is None or torch.compiler.is_compiling() or state.tokens.device.type != "cpu":
        return
    needed = int(state.tokens.max()) + length if len(state.tokens) else length
    if needed > state.capacity:
        remedy = "make the state for a longer context, or let it grow"
        raise argument_error("attention", f"{needed} tokens", f"at most its capacity of {state.capacity}", remedy)


def _last(x: Tensor, count: int) -> Tensor:
    """The last ``count`` tokens, or all."""
    return x[:, max(0, x.shape[1] - count) :]


_LAST = Composed(
    "last_tokens", _last, lambda x, count: x.new_empty(x.shape[0], torch.sym_min(x.shape[1], count), *x.shape[2:])
)
