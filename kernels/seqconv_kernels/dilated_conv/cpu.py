"""Dilated convolutions in series in C++ as a PyTorch operator: all levels of a few channels at a time.

Histories go to the operator and come from it as one tensor, those of the levels behind each other along time.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import native
from .._core.double_backward import composed_gradients, differentiate_again
from .._core.operators import Operator
from .._core.precision import accumulation_dtype
from . import reference

_CODES = {None: 0, "relu": 1, "silu": 2, "tanh": 3}


class Inputs(NamedTuple):
    """The arguments of the operator, in order; its sums have the dtype of the weights."""

    x: Tensor
    weight: Tensor
    dilations: list[int]
    activation: str | None
    history: Tensor | None
    keep: bool

    @property
    def reaches(self) -> list[int]:
        """Rows of the history of each level."""
        return [(self.weight.shape[2] - 1) * d for d in self.dilations]

    def after(self) -> Tensor:
        """Room for the history after the inputs, none if it is not kept."""
        rows = sum(self.reaches) if self.keep else 0
        return self.weight.new_empty(self.x.shape[0], rows, self.x.shape[2])


_ARGUMENTS = "Tensor x, Tensor weight, int[] dilations, str? activation, Tensor? history, bool keep"


def dilated_conv(
    x: Tensor,
    weight: Tensor,
    dilations: Sequence[int],
    activation: str | None,
    history: Sequence[Tensor] | None,
    keep: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The output, and the histories after it if they are kept."""
    sums = accumulation_dtype(x, weight)
    wide = x.to(sums) if sums == torch.float64 else x
    past = None if history is None else torch.cat([level.to(sums) for level in history], dim=1)
    y, after = _OPERATOR(wide, weight.to(sums), list(dilations), activation, past, keep)
    if not keep:
        return y.to(x.dtype), ()
    reaches = [(weight.shape[2] - 1) * d for d in dilations]
    # Copies, for steps write into each of them.
    return y.to(x.dtype), tuple(level.clone() for level in after.split(reaches, dim=1))


def _prepare(inputs: Inputs) -> list[Any]:
    """The inputs as the extension takes them."""
    past = None if inputs.history is None else inputs.history.contiguous()
    tensors = (native.dense_rows(inputs.x), inputs.weight.mT.contiguous(), past)
    return [*tensors, inputs.dilations, _CODES[inputs.activation]]


def _call(function: Any, prepared: list[Any], *others: Tensor | None) -> None:
    tensors, options = prepared[:3], prepared[3:]
    function(*map(native.view, tensors), *options, *map(native.view, others), torch.get_num_threads())


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs = Inputs(*arguments)
    y, after = inputs.x.new_empty(inputs.x.shape), inputs.after()
    _call(native.library().dilated_conv_forward, _prepare(inputs), y, after if inputs.keep else None)
    return y, after


def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *given, dy, dafter = arguments
    inputs = Inputs(*given)
    prepared = _prepare(inputs)
    dx, dweight, dhistory = _gradients(inputs)
    turned = dweight.new_empty(inputs.weight.mT.shape)
    _call(
        native.library().dilated_conv_backward, prepared,
        native.dense_rows(dy), dafter.contiguous() if inputs.keep else None,
        dx, turned, None if inputs.history is None else dhistory,
    )  # fmt: skip
    return dx, dweight.copy_(turned.mT), dhistory


def _gradients(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of x, the weights and the history, which may have none."""
    x, weight, history = inputs.x, inputs.weight, inputs.history
    dhistory = weight.new_empty(0 if history is None else history.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), dhistory


def _like(inputs: Inputs) -> tuple[Tensor, Tensor]:
    return inputs.x.new_empty(inputs.x.shape), inputs.after()


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    given = Inputs(*inputs)
    ctx.save_for_backward(given.x, given.weight, given.history)
    ctx.options = (given.dilations, given.activation, given.keep)


def _differentiate(ctx: Any, dy: Tensor, dafter: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, history = ctx.saved_tensors
    dilations, activation, keep = ctx.options
    arguments = (x, weight, dilations, activation, history, keep)
    dx, dweight, dhistory = _BACKWARD(*arguments, dy, dafter)
    return dx, dweight, None, None, None if history is None else dhistory, None


def _composed_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    *given, dy, dafter = arguments
    inputs = Inputs(*given)
    x, weight, past = inputs.x, inputs.weight, inputs.history
    history = None if past is None else past.split(inputs.reaches, dim=1)
    y, after = reference.dilated_conv(x, weight, inputs.dilations, inputs.activation, history, inputs.keep)
    outputs, cotangents = ([y, torch.cat(after, dim=1)], [dy, dafter]) if inputs.keep else ([y], [dy])
    return composed_gradients(outputs, cotangents, [x, weight, past])


_OPERATOR = Operator("dilated_conv", f"({_ARGUMENTS}) -> (Tensor, Tensor)", _forward, lambda *a: _like(Inputs(*a)))
_BACKWARD = Operator(
    "dilated_conv_backward",
    f"({_ARGUMENTS}, Tensor dy, Tensor dafter) -> (Tensor, Tensor, Tensor)",
    _backward,
    lambda *a: _gradients(Inputs(*a[:-2])),
)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
