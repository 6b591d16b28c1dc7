"""Gradients of gradients for operators that have a kernel for their own backward pass, and no more."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import refusal


def differentiate_again(operator: str, form: Callable[..., tuple[Tensor, ...]]) -> None:
    """Let the backward operator ``operator`` be differentiated, through ``form``, which computes the same.

    Args:
        operator: name of an operator of tensors and other values, which returns tensors.
        form: the same function, composed of differentiable operations; slower, and only run for second orders.
    """
    torch.library.register_autograd(operator, _through(operator, form), setup_context=_keep)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.options = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))


def _through(operator: str, form: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor | None, ...]]:
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise refusal(
                operator, "a third gradient", "at most second gradients", "compute with implementation='reference'"
            )
        with torch.enable_grad():  # detached: what one input owes to another is not the derivative of this operator
            inputs = [
                option if tensor is None else tensor.detach().requires_grad_()
                for tensor, option in zip(ctx.saved_tensors, ctx.options, strict=True)
            ]
            given = [(y, g) for y, g in zip(form(*inputs), gradients, strict=True) if g is not None]
            leaves = [value for value in inputs if isinstance(value, Tensor)]
            outputs, weights = zip(*given, strict=True)
            found = iter(torch.autograd.grad(outputs, leaves, weights, allow_unused=True))
        return tuple(next(found) if isinstance(value, Tensor) else None for value in inputs)

    return backward
