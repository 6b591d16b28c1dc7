"""Readable form of :func:`seqconv_kernels.rnn`: token by token, any floating dtype."""

import torch
from torch import Tensor

from .._core.packing import Segments
from .._core.precision import accumulation_dtype, without_autocast
from .cells import CELLS
from .spec import Inputs


def rnn(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Steps over the tokens; a row that has not started yet, or has ended, keeps its states."""
    if inputs.cu_seqlens is None:
        return _rnn(inputs, _started(inputs))
    segments = Segments(inputs.cu_seqlens, inputs.x.device)
    h, last = _rnn(inputs._replace(x=segments.unpack(inputs.x)), segments.real)
    return segments.pack(h), last


def rnn_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token: the output and the next states."""
    assert inputs.initial_state is not None
    states = _step(inputs.x, inputs, inputs.initial_state)
    return states[:, 0].to(inputs.x.dtype, copy=True), states


def _rnn(inputs: Inputs, real: Tensor | None) -> tuple[Tensor, Tensor]:
    x, weight, bias, cell, states, *_ = inputs
    wide = accumulation_dtype(x, weight, bias, states)
    if states is None:
        states = x.new_zeros(x.shape[0], CELLS[cell].states, *x.shape[3:], dtype=wide)
    # Converted once: the gradients of all steps are summed before they are rounded.
    inputs = inputs._replace(recurrent_weight=weight.to(wide), bias=None if bias is None else bias.to(wide))
    outputs = []
    for t, x_t in enumerate(x.unbind(1)):
        after = _step(x_t, inputs, states)
        h = after[:, 0]
        if real is not None:
            now = real[:, t, None, None, None]
            after = torch.where(now, after, states)
            h = torch.where(now[:, 0], h, 0)
        outputs.append(h)
        states = after
    return torch.stack(outputs, dim=1).to(x.dtype), states


@without_autocast
def _step(x: Tensor, inputs: Inputs, states: Tensor) -> Tensor:
    """The states after a token, (batch, states, heads, head_dim)."""
    _, weight, bias, name, *_ = inputs
    dtype = accumulation_dtype(x, weight, bias, states)
    wide = states.to(dtype)
    r = torch.einsum("ghij,bhj->bghi", weight.to(dtype), wide[:, 0])
    if bias is not None:
        r = r + bias.to(dtype)
    cell = CELLS[name]
    return torch.stack(cell.step(x.to(dtype).unbind(1), r.unbind(1), wide.unbind(1)), dim=1)


def _started(inputs: Inputs) -> Tensor | None:
    """Where tokens count, (batch, length)."""
    if inputs.starts is None:
        return None
    return torch.arange(inputs.x.shape[1], device=inputs.x.device) >= inputs.starts[:, None].to(inputs.x.device)
