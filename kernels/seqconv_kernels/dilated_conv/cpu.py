"""Dilated convolutions in series in C++ as a PyTorch operator: all levels of a few channels at a time.

Backward, from the last level to the first, with ``g`` the gradient of ``a_{i+1}`` before its activation::

    dweight[i, k] = sum_t g[t] a_i[t - k d_i],    da_i[s] = sum_k weight[i, k] g[s + k d_i]

where positions before the first input are those of the level's history. The inputs of the levels are computed again.
"""

from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import composed_gradients, differentiate_again
from .._core.operator.inputs import differentiable, gradients_by_name, save_inputs, saved_inputs
from .._core.operator.operators import Operator
from .._core.precision import accumulation_dtype
from . import reference
from .spec import Inputs, reaches

_CODES = {None: 0, "relu": 1, "silu": 2, "tanh": 3}


def dilated_conv(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output, and the history after it if it is kept; the sums have the dtype of the weights."""
    x, sums = inputs.x, accumulation_dtype(inputs.x, inputs.weight)
    wide = x.to(sums) if sums == torch.float64 else x
    y, after = _OPERATOR(inputs._replace(x=wide, weight=inputs.weight.to(sums), dilations=list(inputs.dilations)))
    return y.to(x.dtype), after


def _prepare(inputs: Inputs) -> list[Any]:
    """The inputs as the extension takes them."""
    past = None if inputs.history is None else inputs.history.contiguous()
    tensors = (native.dense_rows(inputs.x), inputs.weight.mT.contiguous(), past)
    return [*tensors, list(inputs.dilations), _CODES[inputs.activation]]


def _call(function: Any, prepared: list[Any], *others: Tensor | None) -> None:
    x, weight, past, dilations, activation = prepared
    views = map(native.view, (x, weight, past))
    function(*views, dilations, activation, *map(native.view, others), torch.get_num_threads())


def _outputs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Buffers for the output, and for the history after it, empty if it is not kept."""
    x, rows = inputs.x, sum(reaches(inputs)) if inputs.return_history else 0
    return x.new_empty(x.shape), inputs.weight.new_empty(x.shape[0], rows, x.shape[2])


def _forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    y, after = _outputs(inputs)
    _call(native.library().dilated_conv_forward, _prepare(inputs), y, after if inputs.return_history else None)
    return y, after


def _backward(inputs: Inputs, dy: Tensor, dafter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dhistory = _gradients(inputs)
    turned = dweight.new_empty(inputs.weight.mT.shape)
    _call(
        native.library().dilated_conv_backward, _prepare(inputs),
        native.dense_rows(dy), dafter.contiguous() if inputs.return_history else None,
        dx, turned, None if inputs.history is None else dhistory,
    )  # fmt: skip
    return dx, dweight.copy_(turned.mT), dhistory


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the gradients of x, the weights and the history, which may have none."""
    x, weight, history = inputs.x, inputs.weight, inputs.history
    dhistory = weight.new_empty(0 if history is None else history.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), dhistory


def _setup_context(ctx: Any, arguments: tuple[Inputs], output: tuple[Tensor, Tensor]) -> None:
    save_inputs(ctx, arguments[0])


def _differentiate(ctx: Any, dy: Tensor, dafter: Tensor) -> dict[str, Tensor | None]:
    inputs, _ = saved_inputs(ctx, Inputs)
    return gradients_by_name(inputs, _BACKWARD(inputs, dy, dafter))


def _composed_gradients(inputs: Inputs, dy: Tensor, dafter: Tensor) -> tuple[Tensor, ...]:
    y, after = reference.dilated_conv(inputs)
    outputs, cotangents = ([y, after], [dy, dafter]) if inputs.return_history else ([y], [dy])
    return composed_gradients(outputs, cotangents, differentiable(inputs).values())


_OPERATOR = Operator("dilated_conv", _forward, _outputs)
_BACKWARD = Operator("dilated_conv_backward", _backward, _gradients)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
