"""Stacked dilated convolutions in Triton: every level is a dense short convolution on a reshaped tensor.

With ``t = r d + p`` a level of dilation d convolves along r alone; its d phases p are independent, like channels. In
memory ``(batch, length, channels)`` is ``(batch, length / d, d channels)`` already, so the reshape copies nothing and
:mod:`..causal_conv1d.triton` does the work, forward and backward. The same holds for the history of a level.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.precision import accumulation_dtype
from ..causal_conv1d.spec import Inputs as ConvInputs
from ..causal_conv1d.triton import BLOCK_C, causal_conv1d
from .reference import ACTIVATIONS, level
from .spec import Inputs, histories

MAX_CHANNELS = 65535 * BLOCK_C
"""Channels that the second axis of a grid can hold: CUDA allows 65,535 blocks on it."""


def dilated_conv(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output, and the history after it if wanted: level by level, each with its SiLU in the same kernel."""
    x, activation, dtype = inputs.x, inputs.activation, accumulation_dtype(inputs.x, inputs.weight)
    a, after, last = x.to(dtype), [], len(inputs.dilations) - 1
    levels = zip(inputs.weight.to(dtype), inputs.dilations, histories(inputs), strict=True)
    for i, (taps, dilation, past) in enumerate(levels):
        if inputs.return_history:
            after.append(_next_history(a, past, (taps.shape[1] - 1) * dilation))
        between = activation if i < last else None
        # One tap is a product, and a dilation beyond the length leaves one row: no convolution to run.
        if taps.shape[1] == 1 or dilation > a.shape[1] or dilation * a.shape[2] > MAX_CHANNELS:
            a = level(a, taps, dilation, past)
        else:
            a = _dense_level(a, taps, dilation, past, "silu" if between == "silu" else None)
            between = None if between == "silu" else between
        a = a if between is None else ACTIVATIONS[between](a)
    return a.to(x.dtype), torch.cat(after, dim=1) if inputs.return_history else a.new_empty(0)


def _dense_level(a: Tensor, taps: Tensor, dilation: int, past: Tensor | None, activation: str | None) -> Tensor:
    """One level as a convolution over ``length / dilation`` rows of ``dilation * channels`` channels."""
    batch, length, channels = a.shape
    rows, width = -(-length // dilation), dilation * channels
    steps = F.pad(a, (0, 0, 0, rows * dilation - length)).reshape(batch, rows, width)
    state = None if past is None else past.reshape(batch, taps.shape[1] - 1, width)
    # dilated_conv counts lags, causal_conv1d positions: the taps are reversed, and the same for all phases.
    y: Tensor = causal_conv1d(ConvInputs(steps, taps.flip(1).repeat(dilation, 1), None, activation, state))
    return y.reshape(batch, rows * dilation, channels)[:, :length]


def _next_history(a: Tensor, past: Tensor | None, reach: int) -> Tensor:
    """The last ``reach`` inputs of a level, after its past (zeros if ``None``)."""
    missing = reach - a.shape[1]
    if missing <= 0:
        return a[:, a.shape[1] - reach :].clone()
    before = a.new_zeros(a.shape[0], missing, a.shape[2]) if past is None else past[:, reach - missing :]
    return torch.cat([before, a], dim=1)
