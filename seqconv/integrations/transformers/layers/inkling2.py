"""The short convolution of Inkling-2, whose taps every token changes: ``y_t = x_t + Σ_j (w_j + (W u_t)_j) x_{t-j}``.

transformers multiplies windows of the input, as many copies of it as there are taps, by taps of every channel and
token. Here the static taps run on the op of the convolution, and those of a token are added lag by lag. Taps that reach
before the document of their token are zero.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels import causal_conv1d

from ..call import Call


def dynamic_short_convolution(
    call: Call, hidden_states: Tensor, dynamic_input: Tensor, conv_mask: Tensor | None = None, **unused: Any
) -> Tensor:
    """``Inkling2DynamicShortConvolution.forward``: (batch, length, channels).

    Args:
        call: of the layer.
        hidden_states: (batch, length, channels).
        dynamic_input: what the taps of a token are made of, (batch, length, inputs).
        conv_mask: (batch, length), zero at padding.
        unused: others.
    """
    layer: Any = call.layer
    width, x = layer.conv_kernel_size, hidden_states.float()
    real = x if conv_mask is None else x * conv_mask[:, :, None]
    past = _inputs_before(call, real)
    y = _static(call, real, past) + _dynamic(call, torch.cat([past, real], dim=1), dynamic_input)
    return ((y + x) / math.sqrt(2 * width + 1)).to(hidden_states.dtype)


def _static(call: Call, x: Tensor, past: Tensor) -> Tensor:
    """By the taps that all tokens share, lag 0 first in the layer's parameter."""
    layer: Any = call.layer
    weight = layer.static_weight.float().flip(0).mT
    if call.documents is None:
        y, _ = causal_conv1d(x, weight, initial_state=past, return_final_state=True)
        return y
    packed: Any = causal_conv1d(call.documents.pack(x), weight, cu_seqlens=call.documents.bounds)
    return call.documents.unpack(packed)


def _dynamic(call: Call, x: Tensor, dynamic_input: Tensor) -> Tensor:
    """By the taps of each token; ``x`` begins with the inputs before."""
    layer: Any = call.layer
    width, heads = layer.conv_kernel_size, layer.num_heads
    taps = layer.weight_proj(dynamic_input).float().unflatten(-1, (heads, width))
    if call.documents is not None:
        too_far = torch.arange(width, device=x.device) > call.documents.position_ids()[..., None]
        taps = taps.masked_fill(too_far[:, :, None], 0)
    x, length = x.unflatten(-1, (heads, -1)), taps.shape[1]
    lags = (x[:, width - 1 - lag :][:, :length] * taps[..., lag, None] for lag in range(width))
    return sum(lags, torch.zeros((), dtype=x.dtype, device=x.device)).flatten(2)


def _inputs_before(call: Call, x: Tensor) -> Tensor:
    """What the cache holds of the inputs before ``x``, (batch, width - 1, channels); it takes ``x`` up."""
    layer: Any = call.layer
    width, context = layer.conv_kernel_size, x[:, :0]
    if call.cache is not None:
        options = {"state_idx": layer.conv_idx, "conv_kernel_size": width}
        context = call.cache.update_conv_state(x.mT, layer.layer_idx, **options).mT
        context = context[:, : context.shape[1] - x.shape[1]].to(x.dtype)
    context = context[:, max(0, context.shape[1] - width + 1) :]
    return F.pad(context, (0, 0, width - 1 - context.shape[1], 0))
