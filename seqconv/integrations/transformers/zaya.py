"""The compressed convolutional projections of ZAYA: queries and keys pass two convolutions, half of a value is delayed.

The depthwise convolution runs on the op, the one within heads is the module: both are one call. Packed documents become
a row each, so that each begins with no token before it, and padding is zeroed after the projections, whose biases it
would carry into real tokens.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqconv_kernels import causal_conv1d
from seqconv_kernels._core.packing import Segments

from .call import Call


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
    real = None if mask is None else mask[:, :, None].to(x.dtype)
    x = x if real is None else x * real
    q, k = layer.q_proj(x), layer.k_proj(x)
    mixed = _convolve(call, torch.cat([q, k], dim=-1), real).split([q.shape[-1], k.shape[-1]], dim=-1)
    q, k, q_mixed, k_mixed = (t.unflatten(-1, (-1, layer.head_dim)) for t in (q, k, *mixed))
    residual = 0.5 * (q.unflatten(2, (-1, layer.num_key_value_groups)) + k[:, :, :, None])
    value = torch.cat([layer.v_proj_current(x), _delayed(call, x)], dim=-1)
    return q_mixed + residual.flatten(2, 3), k_mixed + residual.mean(3), value.unflatten(-1, (-1, layer.head_dim))


def _convolve(call: Call, qk: Tensor, real: Tensor | None) -> Tensor:
    """Both convolutions after the projections that the cache holds, zeros where there are none."""
    layer: Any = call.layer
    qk = qk if real is None else qk * real
    reach, cache = layer.conv_kernel_size, call.cache
    past = None if cache is None else cache.get_conv_state(layer.layer_idx, state_idx=0)
    qk = F.pad(qk, (0, 0, reach, 0)) if past is None else torch.cat([past.mT.to(qk.dtype), qk], dim=1)
    if cache is not None:
        cache.update_conv_state(qk[:, qk.shape[1] - reach :].mT, layer.layer_idx)
    grouped: Tensor = layer.conv_qk_grouped(_depthwise(layer.conv_qk_depthwise, qk).mT).mT
    return grouped


def _depthwise(conv: nn.Module, qk: Tensor) -> Tensor:
    """Outputs that lack no input; through the module where something wraps it."""
    if type(conv) is not nn.Conv1d:
        wrapped: Tensor = conv(qk.mT).mT
        return wrapped
    y: Any = causal_conv1d(qk, conv.weight[:, 0], conv.bias)
    valid: Tensor = y[:, conv.kernel_size[0] - 1 :]
    return valid


def _delayed(call: Call, x: Tensor) -> Tensor:
    """The delayed half of the values: of the token before, which is zero before the first one."""
    layer: Any = call.layer
    delayed, cache = layer.v_proj_delayed(x), call.cache
    before = None if cache is None else cache.get_recurrent_state(layer.layer_idx, state_idx=0)
    before = layer.v_proj_delayed(torch.zeros_like(x[:, 0])) if before is None else before.to(delayed.dtype)
    shifted = torch.cat([before[:, None], delayed[:, :-1]], dim=1)
    if cache is not None:
        cache.update_recurrent_state(delayed[:, -1], layer.layer_idx)  # in place of ``before``
    return shifted
