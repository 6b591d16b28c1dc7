"""dilated_conv on the short convolution in Triton: a dilation is an axis.

With ``t = r d + p`` a level of dilation d is a dense convolution along r, its phases p side by side with the channels;
``(batch, length, channels)`` in memory is ``(batch, length / d, d channels)`` already. The same holds of the history.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.precision import accumulation_dtype
from ..causal_conv1d.triton import BLOCK_C, causal_conv1d
from .reference import ACTIVATIONS, level

WIDEST = 65535 * BLOCK_C
"""Channels that fill the second axis of a grid."""


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    dilations: Sequence[int],
    activation: str | None,
    history: Sequence[Tensor] | None,
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, and the histories after it if they are kept: level by level, a SiLU fused to the level before it."""
    dtype = accumulation_dtype(x, weight)
    a, after = x.to(dtype), []
    for i, (taps, dilation) in enumerate(zip(weight.to(dtype), dilations, strict=True)):
        past = None if history is None else history[i].to(dtype)
        if keep:
            after.append(_heard(a, past, (taps.shape[1] - 1) * dilation))
        between = activation if i + 1 < len(dilations) else None
        if taps.shape[1] == 1 or dilation > a.shape[1] or dilation * a.shape[2] > WIDEST:
            a = level(a, taps, dilation, past)
        else:
            a = _dense(a, taps, dilation, past, "silu" if between == "silu" else None)
            between = None if between == "silu" else between
        a = a if between is None else ACTIVATIONS[between](a)
    return a.to(x.dtype), tuple(after)


def _dense(a: Tensor, taps: Tensor, dilation: int, past: Tensor | None, activation: str | None) -> Tensor:
    batch, length, channels = a.shape
    rows, wide = -(-length // dilation), dilation * channels
    steps = F.pad(a, (0, 0, 0, rows * dilation - length)).reshape(batch, rows, wide)
    state = None if past is None else past.reshape(batch, taps.shape[1] - 1, wide)
    y: Tensor = causal_conv1d(steps, taps.flip(1).repeat(dilation, 1), None, activation, state, None)
    return y.reshape(batch, rows * dilation, channels)[:, :length]


def _heard(a: Tensor, past: Tensor | None, reach: int) -> Tensor:
    """The last ``reach`` inputs of a level, its past (zeros if ``None``) in front; a copy, for steps write into it."""
    missing = reach - a.shape[1]
    if missing <= 0:
        return a[:, a.shape[1] - reach :].clone()
    before = a.new_zeros(a.shape[0], missing, a.shape[2]) if past is None else past[:, reach - missing :]
    return torch.cat([before, a], dim=1)
