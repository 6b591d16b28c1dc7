"""Gradients of gradients for operators that have a kernel for their own backward pass, and no more."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import argument_error
from .inputs import differentiable, flatten, gradients_by_name, save_inputs, saved_inputs
from .operators import Operator

I = TypeVar("I", bound=tuple[Any, ...])  # noqa: E741


def differentiate_again(operator: Operator, form: Callable[..., tuple[Tensor, ...]]) -> None:
    """Let the backward operator ``operator`` be differentiated, through ``form``, which computes the same.

    Args:
        operator: of tensors and other values, returns tensors.
        form: the same function, composed of differentiable operations; slower, and only run for second orders.
    """
    operator.differentiate(_save, _through(operator, form))


def differentiate_by(
    operator: Operator,
    adjoint: Callable[[I, Tensor], Sequence[Tensor]],
    kind: Callable[..., I],
    composed: Callable[[I], Tensor] | None = None,
) -> None:
    """Register the gradient of an operator of ``kind`` with one output, which keeps nothing but its inputs.

    Args:
        operator: of inputs.
        adjoint: from the inputs and the output's gradient to the gradients of the differentiable inputs.
        kind: class of the inputs.
        composed: the same as ``operator`` in PyTorch's operations, through which ``adjoint``, then an operator, is
            differentiated.
    """

    def save(ctx: Any, arguments: tuple[I], _: Tensor) -> None:
        save_inputs(ctx, arguments[0])

    def differentiate(ctx: Any, dy: Tensor) -> dict[str, Tensor | None]:
        inputs, _ = saved_inputs(ctx, kind)
        return gradients_by_name(inputs, adjoint(inputs, dy))

    operator.differentiate(save, differentiate)
    if composed is not None:
        run = composed
        assert isinstance(adjoint, Operator)
        differentiate_again(
            adjoint, lambda inputs, dy: composed_gradients([run(inputs)], [dy], differentiable(inputs).values())
        )


def composed_gradients(
    outputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], inputs: Collection[Tensor | None]
) -> tuple[Tensor, ...]:
    """Gradients of composed ``outputs`` for every input, differentiable again; an empty one where none was given."""
    ys, weights = zip(
        *((y, g.to(y.dtype)) for y, g in zip(outputs, cotangents, strict=True) if g is not None), strict=True
    )
    leaves = [x for x in inputs if x is not None]
    found = iter(torch.autograd.grad(ys, leaves, weights, create_graph=True, materialize_grads=True))
    return tuple(ys[0].new_empty(0) if x is None else next(found) for x in inputs)


def _save(ctx: Any, arguments: tuple[Any, ...], output: Any) -> None:
    save_inputs(ctx, tuple(flatten(arguments)))


def _through(operator: Operator, form: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise argument_error(
                operator.qualified,
                "a third gradient",
                "at most second gradients",
                "compute with implementation='reference'",
            )
        with torch.enable_grad():
            # Detached: if one saved tensor was computed from another, that is not part of this operator's derivative.
            flat = [
                option if tensor is None else tensor.detach().requires_grad_(tensor.is_floating_point())
                for tensor, option in zip(ctx.saved_tensors, ctx.options, strict=True)
            ]
            pairs = zip(form(*operator.pack(flat)), gradients, strict=True)
            given = [(y, g.to(y.dtype)) for y, g in pairs if g is not None and y.requires_grad]
            outputs, weights = zip(*given, strict=True)
            found = iter(torch.autograd.grad(outputs, list(filter(_is_leaf, flat)), weights, allow_unused=True))
        return tuple(next(found) if _is_leaf(value) else None for value in flat)

    return backward


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
