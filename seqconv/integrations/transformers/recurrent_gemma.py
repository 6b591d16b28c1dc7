"""The recurrent block of RecurrentGemma (Griffin), on the ops of the convolution and of the diagonal recurrence.

``h[t] = a[t] h[t-1] + x[t]`` per channel, with ``a = 0`` at the first token of a document. transformers keeps the
states in the layers, and so does this; of a prompt in several chunks it keeps the inputs of the convolution too.
"""

from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import causal_conv1d, linear_scan

from .call import Call


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
    x = layer.linear_x(input_states)
    weight, bias = layer.conv_1d.weight[:, 0], layer.conv_1d.bias
    if call.documents is not None:
        packed: Any = causal_conv1d(call.documents.pack(x), weight, bias, cu_seqlens=call.documents.bounds)
        x, layer.conv1d_state, layer.rg_lru.recurrent_states = call.documents.unpack(packed), None, None
    else:
        before = _inputs_before(call, x) if use_cache else None
        x, after = causal_conv1d(x, weight, bias, initial_state=before, return_final_state=True)
        layer.conv1d_state = after.mT if use_cache else None
        if not use_cache:
            layer.rg_lru.recurrent_states = None
    return layer.linear_out(layer.rg_lru(x, position_ids) * y), None


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


def _inputs_before(call: Call, x: Tensor) -> Tensor:
    """The inputs of the convolution before ``x``, (batch, width - 1, channels): zeros where a prompt begins.

    Several tokens go on from the state of the layer only if the same cache came with the tokens before.
    """
    layer: Any = call.layer
    seen = set() if call.cache is None else vars(call.cache).setdefault("_seqconv_seen", set())
    batch, length, channels = x.shape
    state = layer.conv1d_state
    goes_on = state is not None and state.shape[:2] == (batch, channels) and (length == 1 or id(layer) in seen)
    seen.add(id(layer))
    if goes_on:
        before: Tensor = state.mT.to(x.dtype)
        return before
    states = layer.rg_lru.recurrent_states
    if length > 1 or states is None or states.shape[0] != batch:
        layer.rg_lru.recurrent_states = x.new_zeros(batch, channels, dtype=torch.float32)
    return x.new_zeros(batch, layer.conv1d_width - 1, channels)
