"""The recurrent cells in C++ as PyTorch operators: forward, backward, and what they look like to the compiler.

The forward pass saves the gates after their activations and the states of every token where a gradient will be asked
for; the output itself stays in the dtype of the sums until then, since it is the state that the next token sees.
"""

from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.double_backward import composed_gradients, differentiate_again
from .._core.inputs import differentiable, gradients_by_name, needs_gradient, save_inputs, saved_inputs
from .._core.operators import Operator, empty_like
from .._core.packing import segment_count
from . import reference
from .cells import CELLS
from .spec import Inputs

CODES = {"lstm": 0, "gru": 1, "elman": 2, "slstm": 3}
"""What the extension calls the cells."""
SAVED = {"lstm": 5, "gru": 4, "elman": 0, "slstm": 7}
"""Numbers that the forward pass saves per channel and token."""


def rnn(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The outputs and the final states."""
    h, final_state, _ = _OPERATOR(inputs, needs_gradient(inputs))
    return h if h.dtype == inputs.x.dtype else h.to(inputs.x.dtype), final_state


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the outputs, the final states, and what the backward pass needs."""
    x, dtype = inputs.x, native.accumulator_dtype(inputs.x)
    batch, length, _, *heads = x.shape
    saved = (batch, length, SAVED[inputs.cell], *heads) if learning else (0,)
    return (
        x.new_empty(batch, length, *heads, dtype=dtype),
        x.new_empty(segment_count(inputs.cu_seqlens, x), CELLS[inputs.cell].states, *heads, dtype=dtype),
        x.new_empty(saved, dtype=dtype),
    )


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Buffers for the gradients of x, the weight, the bias and the initial state, all in the dtype of the sums."""
    x, weight, dtype = inputs.x, inputs.recurrent_weight, native.accumulator_dtype(inputs.x)
    states = (segment_count(inputs.cu_seqlens, x), CELLS[inputs.cell].states, *x.shape[3:])
    return (
        empty_like(x, x, dtype),
        empty_like(x, weight, dtype),
        x.new_empty(weight.shape[:3], dtype=dtype),
        x.new_empty(states, dtype=dtype),
    )


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
    h, final_state, saved = _outputs(inputs, learning)
    tensors = [
        _flat(x), _wide(weight, x), _wide(bias, x), _states(initial, x), native.bounds_on_cpu(starts),
        native.bounds_on_cpu(bounds), h.flatten(2), saved.flatten(2) if learning else None, final_state.flatten(2),
    ]  # fmt: skip
    native.library().rnn_forward(*map(native.view, tensors), CODES[cell], torch.get_num_threads())
    return h, final_state, saved


def _backward(inputs: Inputs, h: Tensor, saved: Tensor, dh: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    x, weight, _, cell, initial, starts, bounds = inputs
    gradients = dx, dweight, dbias, dinitial = _gradients(inputs)
    tensors = [
        _wide(weight, x), _states(initial, x), native.bounds_on_cpu(starts), native.bounds_on_cpu(bounds),
        h.contiguous().flatten(2), saved.flatten(2), dh.contiguous().flatten(2), _states(dfinal, x),
        dx.flatten(2), dweight, dbias, dinitial.flatten(2),
    ]  # fmt: skip
    native.library().rnn_backward(*map(native.view, tensors), CODES[cell], torch.get_num_threads())
    return gradients


def _setup_context(ctx: Any, arguments: tuple[Inputs, bool], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    save_inputs(ctx, arguments[0], output[0], output[2])


def _differentiate(ctx: Any, dh: Tensor | None, dfinal: Tensor | None, _: Any) -> dict[str, Tensor | None]:
    inputs, (h, saved) = saved_inputs(ctx, Inputs)
    dh = torch.zeros_like(h) if dh is None else dh
    return gradients_by_name(inputs, _BACKWARD(inputs, h, saved, dh, dfinal))


def _composed_gradients(
    inputs: Inputs, h: Tensor, saved: Tensor, dh: Tensor, dfinal: Tensor | None
) -> tuple[Tensor, ...]:
    """By the reference, on inputs in the dtype of the sums."""
    wide = inputs._replace(x=inputs.x.to(h.dtype))
    return composed_gradients(reference.rnn(wide), [dh, dfinal], differentiable(wide).values())


_OPERATOR = Operator("rnn", _forward, _outputs)
_BACKWARD = Operator("rnn_backward", _backward, _gradients, results=4)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
