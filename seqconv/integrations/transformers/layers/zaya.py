"""The compressed convolutional projections of ZAYA: queries and keys pass two convolutions, half of a value is delayed.

The depthwise convolution runs on the op, the one within heads is the module: both are one call. Packed documents become
a row each, so that each begins with no token before it, and padding is zeroed after the projections, whose biases it
would carry into real tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels._core.packing import Segments

from ..call import Call, conv_state, recurrent_state
from ..convolution import depthwise
from ..padding import padding_first, padding_mask


def cca_projection(
    call: Call, hidden_states: Tensor, conv_mask: Tensor | None = None, **unused: Any
) -> tuple[Tensor, ...]:
    """``ZayaCCAProjection.forward``: queries, keys and values, (batch, length, heads, head_dim)."""
    if call.documents is None:
        return _project(call, hidden_states, conv_mask)
    documents = call.documents
    segments = Segments(documents.bounds, hidden_states.device)
    rows = segments.unpack(documents.pack(hidden_states))
    return tuple(documents.unpack(segments.pack(t)) for t in _project(call, rows, None))


def _project(call: Call, x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    layer: Any = call.layer
    past, token_before = conv_state(call), recurrent_state(call) if conv_state(call) is not None else None
    real = None if mask is None else mask[:, :, None].to(x.dtype)
    x = x if real is None else x * real
    q, k = layer.q_proj(x), layer.k_proj(x)
    qk = torch.cat([q, k], dim=-1)
    mixed = _convolve(call, qk if real is None else qk * real, past).split([q.shape[-1], k.shape[-1]], dim=-1)
    q, k, q_mixed, k_mixed = (t.unflatten(-1, (-1, layer.head_dim)) for t in (q, k, *mixed))
    residual = 0.5 * (q.unflatten(2, (-1, layer.num_key_value_groups)) + k[:, :, :, None])
    value = torch.cat([layer.v_proj_current(x), _delayed(call, x, token_before)], dim=-1)
    return q_mixed + residual.flatten(2, 3), k_mixed + residual.mean(3), value.unflatten(-1, (-1, layer.head_dim))


def _convolve(call: Call, qk: Tensor, past: Tensor | None) -> Tensor:
    """Both convolutions after the projections that the cache holds, zeros where there are none."""
    layer: Any = call.layer
    reach, cache, length = layer.conv_kernel_size, call.cache, qk.shape[1]
    qk = F.pad(qk, (0, 0, reach, 0)) if past is None else torch.cat([past.mT.to(qk.dtype), qk], dim=1)
    first = padding_first(call, padding_mask(call, qk.shape[1]))
    qk = qk if first is None else first(qk.mT).mT
    if cache is not None:
        cache.update_conv_state(qk[:, qk.shape[1] - reach :].mT, layer.layer_idx)
    grouped: Tensor = layer.conv_qk_grouped(depthwise(layer.conv_qk_depthwise, qk).mT)
    return grouped.mT if first is None else first.undo(F.pad(grouped, (reach, 0)))[..., -length:].mT


def _delayed(call: Call, x: Tensor, before: Tensor | None) -> Tensor:
    """The delayed half of the values: of the token before, which is zero before the first one."""
    layer: Any = call.layer
    delayed, cache = layer.v_proj_delayed(x), call.cache
    before = layer.v_proj_delayed(torch.zeros_like(x[:, 0])) if before is None else before.to(delayed.dtype)
    tokens = torch.cat([before[:, None], delayed], dim=1).mT
    first = padding_first(call, padding_mask(call, tokens.shape[-1]))
    tokens = tokens if first is None else first(tokens)
    if cache is not None:
        cache.update_recurrent_state(tokens[..., -1], layer.layer_idx)  # in place of ``before``
    shifted = F.pad(tokens[..., :-1], (1, 0))
    return (shifted if first is None else first.undo(shifted)).mT[:, 1:]
