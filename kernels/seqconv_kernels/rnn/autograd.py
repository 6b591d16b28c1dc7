"""What the kernels of the recurrent cells share: buffers for their results, and how autograd sees them.

The forward pass saves the gates after their activations and the states of every token where a gradient will be asked
for; the output itself stays in the dtype of the sums until then, since it is the state that the next token sees.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import composed_gradients, differentiate_again
from .._core.operator.inputs import differentiable, gradients_by_name, needs_gradient, save_inputs, saved_inputs
from .._core.operator.operators import Operator, empty_like
from .._core.packing import segment_count
from . import reference
from .cells import CELLS
from .spec import Inputs

SAVED = {"lstm": 5, "gru": 4, "elman": 0, "slstm": 7}
"""Numbers that the forward pass saves per channel and token."""

Forward = Callable[[Inputs, bool], tuple[Tensor, Tensor, Tensor]]
Backward = Callable[[Inputs, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]


def outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the outputs, the final states, and what the backward pass needs."""
    x, dtype = inputs.x, native.accumulator_dtype(inputs.x)
    batch, length, _, *heads = x.shape
    saved = (batch, length, SAVED[inputs.cell], *heads) if learning else (0,)
    return (
        x.new_empty(batch, length, *heads, dtype=dtype),
        x.new_empty(segment_count(inputs.cu_seqlens, x), CELLS[inputs.cell].states, *heads, dtype=dtype),
        x.new_empty(saved, dtype=dtype),
    )


def gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Buffers for the gradients of x, the weight, the bias and the initial state, all in the dtype of the sums."""
    x, weight, dtype = inputs.x, inputs.recurrent_weight, native.accumulator_dtype(inputs.x)
    states = (segment_count(inputs.cu_seqlens, x), CELLS[inputs.cell].states, *x.shape[3:])
    return (
        empty_like(x, x, dtype),
        empty_like(x, weight, dtype),
        x.new_empty(weight.shape[:3], dtype=dtype),
        x.new_empty(states, dtype=dtype),
    )


def kernels(name: str, forward: Forward, backward: Backward, devices: str) -> Callable[[Inputs], tuple[Tensor, Tensor]]:
    """The implementation made of two kernels, as operators that the compiler sees.

    Args:
        name: of the operator.
        forward: the outputs, final states and what is saved, from the inputs and whether to save.
        backward: the four :func:`gradients`, from the inputs, outputs, what was saved, and their gradients.
        devices: as of the operator class.
    """
    operator = Operator(name, forward, outputs, devices)
    adjoint = Operator(f"{name}_backward", backward, gradients, devices, results=4)

    def differentiate(ctx: Any, dh: Tensor | None, dfinal: Tensor | None, _: Any) -> dict[str, Tensor | None]:
        inputs, (h, saved) = saved_inputs(ctx, Inputs)
        dh = torch.zeros_like(h) if dh is None else dh
        return gradients_by_name(inputs, adjoint(inputs, h, saved, dh, dfinal))

    operator.differentiate(_setup_context, differentiate)
    differentiate_again(adjoint, _composed_gradients)

    def run(inputs: Inputs) -> tuple[Tensor, Tensor]:
        h, final_state, _ = operator(inputs, needs_gradient(inputs))
        return h if h.dtype == inputs.x.dtype else h.to(inputs.x.dtype), final_state

    return run


def _setup_context(ctx: Any, arguments: tuple[Inputs, bool], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    save_inputs(ctx, arguments[0], output[0], output[2])


def _composed_gradients(
    inputs: Inputs, h: Tensor, saved: Tensor, dh: Tensor, dfinal: Tensor | None
) -> tuple[Tensor, ...]:
    """By the reference, on inputs in the dtype of the sums."""
    wide = inputs._replace(x=inputs.x.to(h.dtype))
    return composed_gradients(reference.rnn(wide), [dh, dfinal], differentiable(wide).values())
