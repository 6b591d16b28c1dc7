"""``causal_conv1d_fn`` and ``causal_conv1d_update`` as transformers calls them: (batch, channels, length)."""

from typing import Any, cast

from torch import Tensor, nn

from seqconv_kernels import causal_conv1d

from ..causal_conv1d import causal_conv1d_update as update
from .call import Call, Unserved
from .linear import is_hooked
from .padding import keep_last_inputs, padding_first, padding_mask

SILU = ("silu", "swish")


def causal_conv1d_fn(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **unused: Any
) -> Tensor:
    """Convolve whole sequences, which may begin with columns from the cache.

    Padding is zeroed first, here and in the cache: a bias of the projection before leaks through the taps otherwise.

    Args:
        call: of the layer.
        x: (batch, channels, length).
        weight: (channels, width).
        bias: (channels).
        activation: ``None`` or the name of one.
        unused: ``seq_idx`` and others: boundaries are those of the call.
    """
    mask = padding_mask(call, x.shape[-1])
    x = x if mask is None else x * mask.to(x.dtype)
    if (first := padding_first(call, mask)) is not None:
        x = first(x)
        keep_last_inputs(call, x)
    rows, bounds, documents = x.mT, None, call.documents
    if documents is not None:
        rows, bounds = documents.pack(rows), documents.bounds
    y: Any = causal_conv1d(rows, weight, bias, activation=_fused(activation), cu_seqlens=bounds)
    y = (y if documents is None else documents.unpack(y)).mT
    return _activated(y if first is None else first.undo(y), activation)


def causal_conv1d_update(
    call: Call, x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """One or several time steps after the columns in ``conv_state``, which are moved on in place.

    Args:
        call: of the layer.
        x: (batch, channels, length).
        conv_state: (batch, channels, columns), at least ``width - 1`` of them.
        weight, bias, activation: as for :func:`causal_conv1d_fn`.
    """
    columns, before = conv_state.shape[-1], weight.shape[1] - 1
    if columns < before:
        raise Unserved(f"a conv_state of {columns} columns, fewer than width - 1 = {before}")
    return _activated(update(x, conv_state, weight, bias, _fused(activation)), activation)


def depthwise(conv: nn.Module, x: Tensor) -> Tensor:
    """``conv(x)`` of a depthwise ``nn.Conv1d`` on (batch, length, channels), without the outputs past the end.

    Through the module where something wraps it or hooks into it: an adapter, or what brings its weight to the device.
    Outputs that lack inputs are there if the module pads.
    """
    if type(conv) is not nn.Conv1d or is_hooked(conv):
        through: Tensor = conv(x.mT)[..., : x.shape[1]].mT
        return through
    y: Any = causal_conv1d(x, conv.weight[:, 0], conv.bias)
    return cast(Tensor, y if conv.padding[0] else y[:, conv.kernel_size[0] - 1 :])


def _fused(activation: str | None) -> Any:
    """The activation that the op computes with the convolution."""
    return "silu" if activation in SILU else None


def _activated(y: Tensor, activation: str | None) -> Tensor:
    """Any other one of transformers', after the convolution."""
    if activation is None or activation in SILU:
        return y
    from transformers.activations import ACT2FN

    other: Tensor = ACT2FN[activation](y)
    return other
