"""The layers of RWKV-4 on the op of the diagonal recurrence.

transformers averages token by token on every device but CUDA. Packed documents begin with no token before and an empty
average. The states of all layers are in one list: last inputs of both layers, numerator, denominator, exponent.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.packing import Segments

from ....mixers.linear_attention.rwkv.rwkv4 import LEAST, average
from ..call import Call

CHANNEL_INPUT, TIME_INPUT, SUMS = 0, 1, slice(2, 5)
"""Places in the list of states."""


def time_mix(call: Call, hidden: Tensor, state: Any = None, use_cache: bool = False) -> tuple[Tensor, Any]:
    """``RwkvSelfAttention.forward``: (batch, length, hidden_size)."""
    layer: Any = call.layer
    before = _token_before(call, hidden, state, TIME_INPUT)
    key = layer.key(_mixed(hidden, before, layer.time_mix_key))
    value = layer.value(_mixed(hidden, before, layer.time_mix_value))
    gate = torch.sigmoid(layer.receptance(_mixed(hidden, before, layer.time_mix_receptance)))
    states = None if state is None else [s[:, :, layer.layer_id] for s in state[SUMS]]
    o, after = _average(call, key, value, states)
    if state is not None:
        state[TIME_INPUT][:, :, layer.layer_id] = hidden[:, -1]
        for stored, new in zip(state[SUMS], after, strict=True):
            stored[:, :, layer.layer_id] = new
    return layer.output(gate * o), state


def channel_mix(call: Call, hidden: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """``RwkvFeedForward.forward``: (batch, length, hidden_size)."""
    layer: Any = call.layer
    before = _token_before(call, hidden, state, CHANNEL_INPUT)
    key = layer.key(_mixed(hidden, before, layer.time_mix_key)).relu().square()
    gate = torch.sigmoid(layer.receptance(_mixed(hidden, before, layer.time_mix_receptance)))
    if state is not None:
        state[CHANNEL_INPUT][:, :, layer.layer_id] = hidden[:, -1]
    return gate * layer.value(key), state


def _mixed(x: Tensor, before: Tensor, share: Tensor) -> Tensor:
    return x * share + before * (1 - share)


def _token_before(call: Call, x: Tensor, state: Any, place: int) -> Tensor:
    """Zero where a sequence begins."""
    layer: Any = call.layer
    first = torch.zeros_like(x[:, 0]) if state is None else state[place][:, :, layer.layer_id].to(x.dtype)
    before = torch.cat([first[:, None], x[:, :-1]], dim=1)
    if call.documents is None:
        return before
    return before.masked_fill((call.documents.position_ids() == 0)[..., None], 0)


def _average(call: Call, key: Tensor, value: Tensor, states: list[Tensor] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    layer: Any = call.layer
    wide = torch.promote_types(key.dtype, torch.float32)
    k, v = key.to(wide), value.to(wide)
    documents = call.documents
    segments = None if documents is None else Segments(documents.bounds, k.device)
    if documents is not None and segments is not None:  # a row per document
        k, v = (segments.unpack(documents.pack(t)) for t in (k, v))
    if states is None:
        sums = k.new_zeros(k.shape[0], 2, k.shape[2])
        exponent = torch.full_like(sums[:, 0], LEAST)
    else:
        sums, exponent = torch.stack(states[:2], dim=1), states[2]
    o, sums, exponent = average(k, v, layer.time_decay, layer.time_first, sums, exponent)
    if documents is not None and segments is not None:
        o = documents.unpack(segments.pack(o))
    return o.to(key.dtype), (sums[:, 0], sums[:, 1], exponent)
