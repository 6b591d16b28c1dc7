"""The recurrent block of RecurrentGemma (Griffin), on the ops of the convolution and of the diagonal recurrence.

``h[t] = a[t] h[t-1] + x[t]`` per channel, with ``a = 0`` at the first token of a document. transformers keeps the
states in the layers, and so does this; of a prompt in several chunks it keeps the inputs of the convolution too.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import linear_scan
from seqconv_kernels._core.packing import Segments

from ..call import Call
from ..convolution import depthwise


def recurrent_block(
    call: Call,
    input_states: Tensor,
    position_ids: Tensor,
    attention_mask: Tensor | None = None,
    use_cache: bool = True,
    **unused: Any,
) -> tuple[Tensor, None]:
    """``RecurrentGemmaRecurrentBlock.forward``: (batch, length, hidden_size)."""
    layer: Any = call.layer
    y = layer.act_fn(layer.linear_y(input_states))
    x, before = layer.linear_x(input_states), layer.rg_lru.recurrent_states
    if keeps_state := use_cache and call.documents is None:
        x = _convolve_on(call, x, position_ids)
    else:
        x, layer.rg_lru.recurrent_states = _convolve(call, x), None
    h = layer.rg_lru(x, position_ids)
    if not keeps_state:  # a prompt that is being decoded continues after this
        layer.rg_lru.recurrent_states = before
    return layer.linear_out(h * y), None


def _convolve(call: Call, x: Tensor) -> Tensor:
    """From the first token, or from that of each document."""
    layer: Any = call.layer
    if call.documents is None:
        return depthwise(layer.conv_1d, x)
    segments = Segments(call.documents.bounds, x.device)
    rows = segments.unpack(call.documents.pack(x))  # a row per document
    return call.documents.unpack(segments.pack(depthwise(layer.conv_1d, rows)))


def _convolve_on(call: Call, x: Tensor, position_ids: Tensor) -> Tensor:
    """After the inputs that the layer keeps, which move on."""
    layer: Any = call.layer
    reach = layer.conv1d_width - 1
    x = torch.cat([_inputs_before(call, x, position_ids), x], dim=1)
    layer.conv1d_state = x[:, x.shape[1] - reach :].mT
    return depthwise(layer.conv_1d, x)[:, reach:]


def rg_lru_scan(
    call: Call,
    hidden_states: Tensor,
    recurrent_gate: Tensor,
    reset: Tensor,
    recurrent_states: Tensor | None,
    acc_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """``RecurrentGemmaRglru._rnn_scan``: (batch, length, channels) and the last state in ``acc_dtype``."""
    a, x = (recurrent_gate * ~reset).to(acc_dtype), hidden_states.to(acc_dtype)
    documents = call.documents
    if documents is not None:
        h, last = linear_scan(
            documents.pack(a), documents.pack(x), return_final_state=True, cu_seqlens=documents.bounds
        )
        return documents.unpack(h).to(hidden_states.dtype), last
    state = None if recurrent_states is None else recurrent_states.to(a.device, acc_dtype)
    h, last = linear_scan(a, x, initial_state=state, return_final_state=True)
    return h.to(hidden_states.dtype), last


def _inputs_before(call: Call, x: Tensor, position_ids: Tensor) -> Tensor:
    """The inputs of the convolution before ``x``, (batch, width - 1, channels): zeros where a prompt begins.

    Tokens go on from the state of the layer only if the same cache came with the tokens before. Where the layer is
    given no cache (transformers 5.20), single tokens go on unless they are the first of their row.
    """
    layer: Any = call.layer
    batch, length, channels = x.shape
    state = layer.conv1d_state
    goes_on = state is not None and state.shape[:2] == (batch, channels)
    if call.cache is None:
        goes_on = goes_on and length == 1
    else:
        seen = vars(call.cache).setdefault("_seqconv_seen", set())
        goes_on = goes_on and id(layer) in seen
        seen.add(id(layer))
    if goes_on:
        before: Tensor = state.mT.to(x.dtype)
        return before if call.cache is not None else before * (position_ids[:, :1, None] != 0)
    layer.rg_lru.recurrent_states = x.new_zeros(batch, channels, dtype=torch.float32)
    return x.new_zeros(batch, layer.conv1d_width - 1, channels)
