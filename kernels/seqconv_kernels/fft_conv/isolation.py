"""Inputs that are not finite, kept to their own row, channel and later outputs.

Every point of a transform is a sum over all inputs, so one NaN reaches every output of its row and channel, earlier
ones too. Any output after all inputs shows it, so looking for one costs a sum over rows and channels; only then is the
signal convolved again, with zeros in its place.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._core.precision import accumulation_dtype
from .spec import Inputs


def isolated(convolve: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """``convolve(inputs)``, whose outputs from an input that is not finite on are NaN, and no others for its sake.

    Args:
        convolve: the convolution by one transform of all inputs; at least one time step.
    """
    y = convolve(inputs)
    if math.isfinite(y[:, -1].sum(dtype=accumulation_dtype(y)).item()):
        return y
    bad = ~signal(inputs).isfinite()
    if not bad.any():
        return y  # an overflow, or the filter or a gate is not finite
    past = bad.shape[1] - y.shape[1]
    before, now = bad[:, :past], bad[:, past:]
    history = None if inputs.history is None else inputs.history.masked_fill(before, 0)
    gate = None if inputs.pre_gate is None else inputs.pre_gate.masked_fill(now, 0)
    clean = inputs._replace(u=inputs.u.masked_fill(now, 0), pre_gate=gate, history=history)
    return convolve(clean).masked_fill_((bad.cumsum(1) > 0)[:, past:], torch.nan)


def signal(inputs: Inputs) -> Tensor:
    """The history, then the gated input, in the dtype of the sums."""
    dtype = accumulation_dtype(inputs.u, inputs.h)
    v = inputs.u.to(dtype) if inputs.pre_gate is None else inputs.u.to(dtype) * inputs.pre_gate
    return v if inputs.history is None else torch.cat([inputs.history.to(dtype), v], dim=1)
