"""The recurrent cells in C++ (``cpu/kernel.cpp``), and how their tensors are passed."""

import torch
from torch import Tensor

from .._core import native
from .autograd import gradients, kernels, outputs
from .spec import Inputs

CODES = {"lstm": 0, "gru": 1, "elman": 2, "slstm": 3}
"""What the extension calls the cells."""


def _flat(tensor: Tensor) -> Tensor:
    """(batch, length, channels), dense along the channels."""
    return native.dense_rows(tensor.flatten(2))


def _wide(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    return None if tensor is None else native.dense(tensor, native.accumulator_dtype(like))


def _states(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    """(segments, states, channels)."""
    return None if tensor is None else native.dense(tensor, native.accumulator_dtype(like)).flatten(2)


def _forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, weight, bias, cell, initial, starts, bounds = inputs
    h, final_state, saved = outputs(inputs, learning)
    tensors = [
        _flat(x), _wide(weight, x), _wide(bias, x), _states(initial, x), native.bounds_on_cpu(starts),
        native.bounds_on_cpu(bounds), h.flatten(2), saved.flatten(2) if learning else None, final_state.flatten(2),
    ]  # fmt: skip
    native.library().rnn_forward(*map(native.view, tensors), CODES[cell], torch.get_num_threads())
    return h, final_state, saved


def _backward(inputs: Inputs, h: Tensor, saved: Tensor, dh: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    x, weight, _, cell, initial, starts, bounds = inputs
    found = dx, dweight, dbias, dinitial = gradients(inputs)
    tensors = [
        _wide(weight, x), _states(initial, x), native.bounds_on_cpu(starts), native.bounds_on_cpu(bounds),
        h.contiguous().flatten(2), saved.flatten(2), dh.contiguous().flatten(2), _states(dfinal, x),
        dx.flatten(2), dweight, dbias, dinitial.flatten(2),
    ]  # fmt: skip
    native.library().rnn_backward(*map(native.view, tensors), CODES[cell], torch.get_num_threads())
    return found


rnn = kernels("rnn", _forward, _backward, "cpu")
"""The outputs and the final states."""
