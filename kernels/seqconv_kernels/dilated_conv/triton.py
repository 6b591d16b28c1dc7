"""Stacked dilated convolutions in Triton: every level is a dense short convolution on a reshaped tensor.

With ``t = r d + p`` a level of dilation d convolves along r alone; its d phases p are independent, like channels. In
memory ``(batch, length, channels)`` is ``(batch, length / d, d channels)`` already, so the reshape copies nothing and
:mod:`..causal_conv1d.triton` does the work, forward and backward. The same holds for the history of a level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.precision import accumulation_dtype
from ..causal_conv1d.triton import BLOCK_C, causal_conv1d
from .reference import ACTIVATIONS, level

MAX_CHANNELS = 65535 * BLOCK_C
"""Channels that the second axis of a grid can hold: CUDA allows 65,535 blocks on it."""


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    dilations: Sequence[int],
    activation: str | None,
    history: Sequence[Tensor] | None,
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, and the history after the call if ``keep``: level by level, each with its SiLU in the same kernel."""
    dtype = accumulation_dtype(x, weight)
    a, after = x.to(dtype), []
    for i, (taps, dilation) in enumerate(zip(weight.to(dtype), dilations, strict=True)):
        past = None if history is None else history[i].to(dtype)
        if keep:
            after.append(_next_history(a, past, (taps.shape[1] - 1) * dilation))
        between = activation if i + 1 < len(dilations) else None
        # One tap is a product, and a dilation beyond the length leaves one row: no convolution to run.
        if taps.shape[1] == 1 or dilation > a.shape[1] or dilation * a.shape[2] > MAX_CHANNELS:
            a = level(a, taps, dilation, past)
        else:
            a = _dense_level(a, taps, dilation, past, "silu" if between == "silu" else None)
            between = None if between == "silu" else between
        a = a if between is None else ACTIVATIONS[between](a)
    return a.to(x.dtype), tuple(after)


def _dense_level(a: Tensor, taps: Tensor, dilation: int, past: Tensor | None, activation: str | None) -> Tensor:
    """One level as a convolution over ``length / dilation`` rows of ``dilation * channels`` channels."""
    batch, length, channels = a.shape
    rows, width = -(-length // dilation), dilation * channels
    steps = F.pad(a, (0, 0, 0, rows * dilation - length)).reshape(batch, rows, width)
    state = None if past is None else past.reshape(batch, taps.shape[1] - 1, width)
    # dilated_conv counts lags, causal_conv1d positions: the taps are reversed, and the same for all phases.
    y: Tensor = causal_conv1d(steps, taps.flip(1).repeat(dilation, 1), None, activation, state, None)
    return y.reshape(batch, rows * dilation, channels)[:, :length]


def _next_history(a: Tensor, past: Tensor | None, reach: int) -> Tensor:
    """The last ``reach`` inputs of a level, after its past (zeros if ``None``); a copy, as steps write into it."""
    missing = reach - a.shape[1]
    if missing <= 0:
        return a[:, a.shape[1] - reach :].clone()
    before = a.new_zeros(a.shape[0], missing, a.shape[2]) if past is None else past[:, reach - missing :]
    return torch.cat([before, a], dim=1)
