"""The states of all layers in the form of transformers' caches, for ``generate``.

It holds one :class:`~seqconv.backbone.BackboneState` instead of keys and values per layer. Beam search reorders its
rows. Assisted generation takes tokens back: while recording, a :class:`~seqconv.decoding.History` holds the state
before every call and what the call read, so that :meth:`SeqConvCache.crop` goes back to a state and reads the tokens
that stay once more. Prompts share what they have in common by states inside a prefill (``states_at``, ``at``), and
requests share a batch by :mod:`~seqconv.hf.cache_rows`.

The cache is a pytree of its state, its mask and the number of tokens read, so that a model exports as it is called.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers.cache_utils import Cache

from seqconv_kernels._core.errors import argument_error

from ..backbone import BackboneState
from ..decoding.history import History, Prefill


class SeqConvCache(Cache):
    """State of a causal seqconv model between calls.

    Args:
        max_length: longest context to come, where known; growing states reserve memory for it.
        states_at: numbers of tokens, padding included, after which a state is kept for :meth:`at`; a call that reads
            past one of them is cut there.

    Attributes:
        state: states of all layers, ``None`` before the first token.
        mask: which positions so far held real tokens, (batch, seen); ``None`` if all.
    """

    def __init__(self, max_length: int | None = None, *, states_at: Sequence[int] = ()) -> None:
        super().__init__(layers=[])
        self.max_length, self.states_at = max_length, states_at
        self.state: BackboneState | None = None
        self.mask: Tensor | None = None
        self._seen = 0
        self._batch_size = -1
        self._kept: dict[int, BackboneState] = {}
        self._history: History | None = None
        self._prefill: Prefill | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "SeqConvCache":
        """An independent copy: one prompt, read once, serves many continuations."""
        twin = copy.copy(self)
        twin.state = None if self.state is None else self.state.clone()
        twin._kept = dict(self._kept)
        twin._history = None if self._history is None else self._history.copy()
        return twin

    def take(self, rows: int) -> BackboneState | None:
        """The state of ``rows`` rows to continue from; the memory of what is returned may be overwritten."""
        if self._history is None or self.state is None:
            return self.state
        return self.state.clone()

    def cuts(self, length: int) -> list[int]:
        """Positions among the next ``length`` at which a call is cut, because their state is to be kept."""
        if not self.states_at:
            return []
        return sorted({t - self._seen for t in self.states_at if self._seen < t <= self._seen + length})

    def keep(self, position: int, state: BackboneState) -> None:
        """Keep a copy of the state after the next ``position`` tokens."""
        self._kept[self._seen + position] = state.clone()

    def at(self, tokens: int) -> "SeqConvCache":
        """A cache of its own that has read the first ``tokens``, one of ``states_at``.

        Raises:
            ValueError: no state was kept there.
        """
        if tokens not in self._kept:
            remedy = "make the cache with SeqConvCache(states_at=...) before the prompt is read"
            raise argument_error("SeqConvCache.at", f"{tokens} tokens", f"one of {sorted(self._kept)}", remedy)
        mask = None if self.mask is None else self.mask[:, :tokens]
        return self.other(self._kept[tokens].clone(), mask, tokens, self._batch_size)

    def other(self, state: BackboneState, mask: Tensor | None, seen: int, rows: int) -> "SeqConvCache":
        """A cache of the same options that has read ``seen`` tokens in ``rows`` rows, up to this state."""
        other = SeqConvCache(self.max_length)
        other.state, other._seen, other._batch_size = state, seen, rows
        other.mask = None if mask is None or bool(mask.all()) else mask
        return other

    def put(self, after: BackboneState, inputs: Tensor, mask: Tensor | None, prefill: Prefill) -> None:
        """The state after a call.

        Args:
            after: states of all layers after ``inputs``.
            inputs: embeddings that the call read, (batch, length, d_model).
            mask: True at real tokens among them, (batch, length); ``None`` if all are.
            prefill: reads inputs again; used by :meth:`crop`.
        """
        self._record(inputs, mask, prefill)
        if mask is not None or self.mask is not None:
            new = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device) if mask is None else mask
            self.mask = self.full_mask(new)
        self.state, self._seen, self._batch_size = after, self._seen + inputs.shape[1], inputs.shape[0]

    def _record(self, inputs: Tensor, mask: Tensor | None, prefill: Prefill) -> None:
        if self._history is not None:
            self._history.record(self.state, inputs, mask)
            self._prefill = prefill

    def full_mask(self, new: Tensor) -> Tensor:
        """The mask of all tokens so far followed by that of new ones, (batch, length)."""
        seen = self.get_seq_length()
        old = new[:, :0] if self.mask is None else self.mask
        return torch.cat([old, new.new_ones(new.shape[0], seen - old.shape[1]), new], dim=1)

    def agrees_with(self, mask: Tensor) -> bool:
        """Whether a mask over all tokens, (batch, seen or more), hides those that were hidden when they were read."""
        earlier = mask[:, : self.get_seq_length()].bool()
        if self.mask is None:
            return bool(earlier.all())
        return torch.equal(earlier, self.full_mask(self.mask[:, :0]).to(earlier.device))

    def check_earlier(self, operation: str, mask: Tensor) -> None:
        """Raise for a mask that hides tokens from the state which it has read, or shows others.

        Raises:
            ValueError: its first columns differ from the masks of the calls before.
        """
        if not self.agrees_with(mask):
            got = "an attention_mask that differs from that of the calls before, at tokens which the cache has read"
            wanted = "the same mask at earlier tokens: a state cannot forget a token"
            remedy = "leave past_key_values out and pass all tokens, or pass the mask under which the cache was made"
            raise argument_error(operation, got, wanted, remedy)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far, padding included."""
        return self._seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """``max_length``, or -1 where there is none."""
        return -1 if self.max_length is None else self.max_length

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """The same under its older name."""
        return self.get_max_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of an attention mask over all tokens."""
        return self._seen + query_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep rows ``beam_idx``, in that order."""
        self._rows(lambda t: t.index_select(0, beam_idx.to(t.device)), lambda s: s.select(beam_idx))
        self._batch_size = len(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep rows ``indices``, in that order."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times."""
        self._rows(lambda t: t.repeat_interleave(repeats, 0), lambda s: s.repeat_interleave(repeats))
        self._batch_size *= repeats

    def reset(self) -> None:
        """Forget everything."""
        self.state, self.mask, self._seen, self._batch_size = None, None, 0, -1
        self._kept = {}
        self._history = None if self._history is None else History()

    def activate_past_recording(self) -> None:
        """Keep what :meth:`crop` needs from now on; the calls since the last crop cost a copy of the state each."""
        self._history = History() if self._history is None else self._history

    @property
    def is_recording(self) -> bool:
        """Whether tokens can be taken back."""
        return self._history is not None

    def crop(self, tokens_to_remove: int | Tensor) -> None:
        """Take back tokens: ``-n`` the last ``n``; a positive length keeps that many. Accepts those that stay.

        Raises:
            ValueError: the tokens were not recorded.
        """
        asked = int(tokens_to_remove)
        count = self._seen - asked if asked > 0 else -asked
        if count > 0 and (self._history is None or len(self._history) < count):
            remedy = "call activate_past_recording() before the tokens that may be taken back"
            raise argument_error("SeqConvCache.crop", f"{count} tokens", "tokens read while recording", remedy)
        if self._history is None:
            return
        if count > 0 and self._prefill is not None:
            self.state = self._history.rollback(self.state, count, self._prefill)
            self._seen -= count
            self.mask = None if self.mask is None else self.mask[:, : self._seen]
            self._kept = {t: state for t, state in self._kept.items() if t <= self._seen}
        self._history.accept()

    def _rows(self, tensor: Callable[[Tensor], Tensor], state: Callable[[BackboneState], BackboneState]) -> None:
        if self._history:
            remedy = "call crop(0) first, which accepts the tokens read so far"
            raise argument_error(
                "SeqConvCache", "a change of rows while tokens may be taken back", "accepted tokens", remedy
            )
        self.state = None if self.state is None else state(self.state)
        self.mask = None if self.mask is None else tensor(self.mask)
        self._kept = {t: state(kept) for t, kept in self._kept.items()}

    @property
    def batch_size(self) -> int:
        """Rows, or -1 before the first token."""
        return self._batch_size

    @property
    def is_compileable(self) -> bool:
        """No: states change their sizes."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Whether a token has been read."""
        return self.state is not None

    @property
    def is_croppable(self) -> bool:
        """Whether tokens can be taken back."""
        return self.is_recording

    @property
    def is_linear(self) -> list[bool]:
        """No layer asks for the whole text: ``generate`` passes the tokens that the cache has not read."""
        return [False] * len(self)

    @property
    def is_sliding(self) -> list[bool]:
        """No layer drops keys by itself."""
        return [False] * len(self)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether a token has been read."""
        return self.state is not None

    def __len__(self) -> int:
        """Layers that hold a state."""
        return 0 if self.state is None else len(self.state.layers)

    def __repr__(self) -> str:
        return f"SeqConvCache(seen={self._seen}, state={type(self.state).__name__})"

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Not here: layers hand in states, not keys and values.

        Raises:
            ValueError: always.
        """
        remedy = "pass a SeqConvCache to seqconv models only"
        raise argument_error("SeqConvCache.update", "keys and values", "states, by put()", remedy)


def _flatten(cache: SeqConvCache) -> tuple[list[Any], int | None]:
    return [cache.state, cache.mask, cache._seen], cache.max_length


def _flatten_with_keys(cache: SeqConvCache) -> tuple[list[tuple[Any, Any]], int | None]:
    children, max_length = _flatten(cache)
    keys = map(pytree.GetAttrKey, ("state", "mask", "_seen"))
    return list(zip(keys, children, strict=True)), max_length


def _unflatten(children: Any, max_length: int | None) -> SeqConvCache:
    """The cache again; one that was recording no longer does, as its calls cannot leave the process."""
    cache = SeqConvCache(max_length)
    cache.state, cache.mask, cache._seen = children
    if all(isinstance(leaf, Tensor | int) for leaf in pytree.tree_leaves(cache.state)) and cache.state is not None:
        cache._batch_size = cache.state.batch_size
    return cache


pytree.register_pytree_node(
    SeqConvCache,
    _flatten,
    _unflatten,
    serialized_type_name=f"{SeqConvCache.__module__}.{SeqConvCache.__qualname__}",
    flatten_with_keys_fn=_flatten_with_keys,
)
