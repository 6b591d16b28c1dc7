"""The inputs of an op, written once as a ``NamedTuple``: names, the operator's schema, which of them have gradients.

An implementation takes one such tuple and reads its fields by name; :class:`.operators.Operator` unpacks it for the
dispatcher of PyTorch, which knows flat arguments only.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

I = TypeVar("I", bound=tuple[Any, ...])  # noqa: E741

Bounds = Annotated[Tensor, "integers, which have no gradient"]
"""Annotation of fields that hold places: ``cu_seqlens``, bounds of sequences packed into a batch of one, orders."""


class Fields(NamedTuple):
    """What is known of the fields of inputs from their annotations.

    Attributes:
        types: the type of every field, in order.
        differentiable: names of the tensors that have gradients, in order.
    """

    types: dict[str, Any]
    differentiable: tuple[str, ...]


@cache
def fields(inputs: type) -> Fields:
    """The fields of a class of inputs."""
    annotated = get_type_hints(inputs, include_extras=True)
    tensors = (name for name, hint in annotated.items() if hint != Bounds and Tensor in (hint, *get_args(hint)))
    return Fields(get_type_hints(inputs), tuple(tensors))


def is_inputs(annotation: Any) -> bool:
    """Whether an annotation is a class of inputs."""
    return isinstance(annotation, type) and issubclass(annotation, tuple) and get_origin(annotation) is None


def flat_schema(function: Callable[..., Any], results: int | None = None) -> str:
    """The schema of an annotated function, each parameter that is a tuple of inputs replaced by its fields.

    Args:
        function: its annotations are those of :func:`torch.library.infer_schema`, or classes of inputs.
        results: number of tensors that it returns, where its own annotation leaves that open.
    """
    hints = get_type_hints(function)
    returned = hints.pop("return")
    flat: dict[str, Any] = {}
    for name, hint in hints.items():
        flat |= fields(hint).types if is_inputs(hint) else {name: hint}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    returned = returned if results is None else tuple[(Tensor,) * results]  # type: ignore[misc]

    def described(*_: Any) -> None: ...

    described.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=hint) for name, hint in flat.items()], return_annotation=returned
    )
    return torch.library.infer_schema(described, mutates_args=())


def flatten(arguments: Sequence[Any]) -> list[Any]:
    """The arguments with the fields of every tuple in its place."""
    flat: list[Any] = []
    for argument in arguments:
        if isinstance(argument, tuple) and hasattr(argument, "_fields"):
            flat.extend(argument)
        else:
            flat.append(argument)
    return flat


def given_tensors(inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """The tensors among the inputs, by name; optional ones that were not given are left out."""
    names: tuple[str, ...] = inputs._fields  # type: ignore[attr-defined]
    return {name: value for name, value in zip(names, inputs, strict=True) if isinstance(value, Tensor)}


def differentiable(inputs: tuple[Any, ...]) -> dict[str, Tensor | None]:
    """The tensors that have gradients, by name and in order; ``None`` for those that were not given."""
    return {name: getattr(inputs, name) for name in fields(type(inputs)).differentiable}


def needs_gradient(inputs: tuple[Any, ...]) -> bool:
    """Whether autograd records this call."""
    return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)


def save_inputs(ctx: Any, inputs: tuple[Any, ...], *others: Tensor) -> None:
    """Save the inputs and other tensors for :func:`saved_inputs` in the backward pass."""
    ctx.options = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs), *others)


def save_inputs_and_last(ctx: Any, arguments: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    """Save the inputs of a scan and the last of its three outputs, which only the backward pass reads.

    The gradients of the others, outputs and final states, come as ``None`` where they are not needed.
    """
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[-1])
    save_inputs(ctx, arguments[0], output[-1])


def saved_inputs(ctx: Any, inputs: Callable[..., I]) -> tuple[I, list[Tensor]]:
    """What :func:`save_inputs` saved."""
    tensors, options = ctx.saved_tensors, ctx.options
    values = [o if t is None else t for t, o in zip(tensors[: len(options)], options, strict=True)]
    return inputs(*values), list(tensors[len(options) :])


def gradients_by_name(inputs: tuple[Any, ...], gradients: Sequence[Tensor]) -> dict[str, Tensor | None]:
    """Gradients of :func:`differentiable` by name and in the dtypes of their tensors; ``None`` without a tensor."""
    pairs = zip(differentiable(inputs).items(), gradients, strict=True)
    return {n: None if t is None else g if g.dtype == t.dtype else g.to(t.dtype) for (n, t), g in pairs}
