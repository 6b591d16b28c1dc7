"""Functions composed of PyTorch operations that compilers and exports see as one operator.

The steps of such a function depend on a size: a response is doubled until it has as many taps as are wanted. A
compiler that keeps the size open would compile it once for every number of doublings, and an export would fix the
size. One operator hides the steps from both. Its gradient composes the function again, in the backward pass.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .sizes import is_exporting_to_onnx


class Composed:
    """A function of tensors and integers, registered as ``seqconv::name`` for compilers and exports.

    Args:
        name: of the operator.
        run: the function; its annotations give the schema, as for :func:`torch.library.infer_schema`. It returns a
            tensor or a tuple of tensors and depends on nothing but its arguments.
        outputs: allocates tensors like the results, without values: the fake kernel.
    """

    def __init__(self, name: str, run: Callable[..., Any], outputs: Callable[..., Any]) -> None:
        self.run = run
        self._differentiable = [i for i, p in enumerate(_parameters(run)) if p.annotation in (Tensor, Tensor | None)]
        self._single = inspect.signature(run).return_annotation is Tensor
        self._operator = _define(name, run, lambda *a: _dense(run(*a)), outputs)
        self._backward = _define(f"{name}_backward", _backward_schema(run), self._gradients, self._empty_gradients)
        torch.library.register_autograd(f"seqconv::{name}", self._differentiate, setup_context=_save)

    def __call__(self, *arguments: Any) -> Any:
        """The results."""
        if torch.compiler.is_compiling() and not is_exporting_to_onnx():
            return self._operator(*arguments)
        return self.run(*arguments)

    def _given(self, arguments: Sequence[Any]) -> list[int]:
        """Places of the tensors that have a gradient: masks and positions have none."""
        tensors = [(i, arguments[i]) for i in self._differentiable if arguments[i] is not None]
        return [i for i, t in tensors if t.is_floating_point() or t.is_complex()]

    def _gradients(self, cotangents: list[Tensor], *arguments: Any) -> list[Tensor]:
        given = self._given(arguments)

        def of_tensors(*tensors: Tensor) -> Any:
            values = list(arguments)
            for i, tensor in zip(given, tensors, strict=True):
                values[i] = tensor
            return self.run(*values)

        pull_back = torch.func.vjp(of_tensors, *(arguments[i] for i in given))[1]
        return list(_dense(pull_back(cotangents[0] if self._single else tuple(cotangents))))

    def _empty_gradients(self, cotangents: list[Tensor], *arguments: Any) -> list[Tensor]:
        return [arguments[i].new_empty(arguments[i].shape) for i in self._given(arguments)]

    def _differentiate(self, ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if is_tensor else value for is_tensor, value in ctx.options]
        found = dict(zip(self._given(arguments), self._backward(list(cotangents), *arguments), strict=True))
        return tuple(found.get(i) for i in range(len(arguments)))


def _parameters(run: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(run).parameters.values())


def _backward_schema(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the signature of the backward operator: the cotangents of the results, then the arguments."""

    def described(*_: Any) -> None: ...

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    cotangents = inspect.Parameter("cotangents", kind, annotation=list[Tensor])
    described.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [cotangents, *_parameters(run)], return_annotation=list[Tensor]
    )
    return described


def _define(name: str, described: Callable[..., Any], run: Callable[..., Any], outputs: Callable[..., Any]) -> Any:
    qualified = f"seqconv::{name}"
    schema = torch.library.infer_schema(described, mutates_args=())
    torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "default")(run)
    torch.library.register_fake(qualified)(outputs)
    return getattr(torch.ops.seqconv, name).default


def _dense(results: Any) -> Any:
    """The results in memory of their own, laid out as the fake kernel says."""
    if isinstance(results, Tensor):
        return results.clone(memory_format=torch.contiguous_format).resolve_conj()
    return tuple(map(_dense, results))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.options = [(isinstance(value, Tensor), None if isinstance(value, Tensor) else value) for value in inputs]
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))


def _leading(x: Tensor, length: int) -> Tensor:
    return x[..., :length]


def _fitted(x: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(x[..., :length], (0, max(0, length - x.shape[-1])))


leading = Composed("leading", _leading, lambda x, length: x.new_empty(*x.shape[:-1], length))
"""``leading(x, length)``: the first values of the last axis, of which there are as many."""

fitted = Composed("fitted", _fitted, lambda x, length: x.new_empty(*x.shape[:-1], length))
"""``fitted(x, length)``: the first values of the last axis, and zeros after its end where there are fewer."""
