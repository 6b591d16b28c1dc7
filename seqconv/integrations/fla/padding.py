"""fla's helpers for sequences of different lengths: bounds from masks, padded batches and packed tokens.

Sources: ``fla/ops/utils/index.py`` and ``fla/layers/utils.py`` of fla-org/flash-linear-attention at bc3b101d.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

Bounds = tuple[Tensor, Tensor]


def prepare_lens(cu_seqlens: Tensor) -> Tensor:
    """Lengths of the sequences of bounds."""
    return cu_seqlens.diff()


def prepare_lens_from_mask(mask: Tensor) -> Tensor:
    """Real tokens of each row, int32."""
    return mask.sum(dim=-1, dtype=torch.int32)


def prepare_cu_seqlens_from_lens(lens: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    """Bounds from lengths."""
    return F.pad(lens.cumsum(0, dtype=dtype), (1, 0))


def prepare_cu_seqlens_from_mask(mask: Tensor, dtype: torch.dtype | None = torch.int32) -> Tensor:
    """Bounds of the real tokens of each row."""
    return prepare_cu_seqlens_from_lens(prepare_lens_from_mask(mask), dtype)


def prepare_position_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """Place of each token in its sequence."""
    starts = torch.repeat_interleave(cu_seqlens[:-1], cu_seqlens.diff())
    return torch.arange(len(starts), device=cu_seqlens.device, dtype=cu_seqlens.dtype) - starts


def prepare_sequence_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """Sequence of each token, of those that have tokens."""
    return prepare_position_ids(cu_seqlens).eq(0).cumsum(0) - 1


def prepare_token_indices(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """Sequence and place of each token, (tokens, 2)."""
    return torch.stack([prepare_sequence_ids(cu_seqlens), prepare_position_ids(cu_seqlens)], dim=1).to(cu_seqlens)


def prepare_chunk_offsets(cu_seqlens: Tensor, chunk_size: int) -> Tensor:
    """Chunks before each sequence, and all of them."""
    return F.pad(-(-cu_seqlens.diff() // chunk_size), (1, 0)).cumsum(-1)


def prepare_chunk_indices(cu_seqlens: Tensor, chunk_size: int, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """Sequence of each chunk and its place there, (chunks, 2)."""
    offsets = prepare_chunk_offsets(cu_seqlens, chunk_size)
    sequence = torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())
    return torch.stack([sequence, prepare_position_ids(offsets)], dim=1).to(cu_seqlens)


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """Rows of ``x``."""
    return x[indices]


def index_put_first_axis(x: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """Rows of ``x`` at their places among ``first_axis_dim`` rows of zeros."""
    return x.new_zeros(first_axis_dim, *x.shape[1:]).index_copy(0, indices, x)


def get_unpad_data(attention_mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """Real tokens among those of the flattened batch, the bounds of their rows, and the most tokens of a row."""
    lens = prepare_lens_from_mask(attention_mask)
    return attention_mask.flatten().nonzero()[:, 0], prepare_cu_seqlens_from_lens(lens), int(lens.max())


def pad_input(hidden_states: Tensor, indices: Tensor, batch_size: int, seq_len: int) -> Tensor:
    """Packed tokens (tokens, ...) as a padded batch (batch_size, seq_len, ...)."""
    rows: Tensor = index_put_first_axis(hidden_states, indices, batch_size * seq_len)
    return rows.view(batch_size, seq_len, *rows.shape[1:])


def unpad_hidden_states(
    hidden_states: Tensor, cu_seqlens: Tensor | None, attention_mask: Tensor | None, q_len: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A padded batch as packed tokens (1, tokens, ...), their places and bounds; as it is where bounds are given."""
    if cu_seqlens is not None or attention_mask is None:
        return hidden_states, None, cu_seqlens
    indices, bounds, _ = get_unpad_data(attention_mask[:, -q_len:])
    return hidden_states.flatten(0, 1)[indices][None], indices, bounds


def repad_hidden_states(hidden_states: Tensor, indices: Tensor | None, batch_size: int, q_len: int) -> Tensor:
    """The inverse of :func:`unpad_hidden_states`."""
    return hidden_states if indices is None else pad_input(hidden_states[0], indices, batch_size, q_len)


def unpad_input(
    q: Tensor | tuple[Tensor, ...],
    states: tuple[Tensor, ...],
    attention_mask: Tensor,
    q_len: int,
    keepdim: bool = False,
) -> tuple[Tensor | tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Bounds, tuple[int, int]]:
    """Queries, and keys and values, of a padded batch as packed tokens.

    Args:
        q: (batch, q_len, ...), one or several.
        states: (batch, length, ...).
        attention_mask: (batch, length).
        q_len: the length, or 1 in decoding.
        keepdim: keep a batch axis of one.

    Returns:
        The queries, the states, the places of the queries, bounds and greatest lengths of both.

    Raises:
        ValueError: another ``q_len``.
    """
    indices, bounds, longest = get_unpad_data(attention_mask)
    batch, length = states[0].shape[:2]
    queries = q if isinstance(q, tuple) else (q,)
    found = tuple(t.flatten(0, 1)[indices] for t in states)
    if q_len == length:
        own, places, own_bounds, most = tuple(t.flatten(0, 1)[indices] for t in queries), indices, bounds, longest
    elif q_len == 1:
        own_bounds = torch.arange(batch + 1, dtype=torch.int32, device=attention_mask.device)
        own, places, most = tuple(t.squeeze(1) for t in queries), own_bounds[:-1], 1
    else:
        got, wanted = f"q_len={q_len} for states of length {length}", f"{length} or 1"
        raise argument_error("unpad_input", got, wanted, "pass the last token or all")
    if keepdim:
        own, found = (tuple(t[None] for t in tensors) for tensors in (own, found))
    return own if isinstance(q, tuple) else own[0], found, places, (own_bounds, bounds), (most, longest)
