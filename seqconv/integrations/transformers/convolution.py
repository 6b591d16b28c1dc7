"""``causal_conv1d_fn`` and ``causal_conv1d_update`` as transformers calls them: (batch, channels, length)."""

from typing import Any

from torch import Tensor

from seqconv_kernels import causal_conv1d

from ..causal_conv1d import causal_conv1d_update as update
from .call import Call, Unserved, mask_conv_state, padding_mask

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
    if mask is not None:
        x = x * mask.to(x.dtype)
        mask_conv_state(call)
    rows, bounds, documents = x.mT, None, call.documents
    if documents is not None:
        rows, bounds = documents.pack(rows), documents.bounds
    y: Any = causal_conv1d(rows, weight, bias, activation=_fused(activation), cu_seqlens=bounds)
    y = y if documents is None else documents.unpack(y)
    return _activated(y.mT, activation)


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
