"""Kernels as PyTorch operators, called directly where only autograd has to see the call.

The compiler, exports, tracers, modes and profilers see a kernel only as an operator of the dispatcher. A call
of one in Python enters Python again at every layer, which takes longer than a small kernel. In plain eager mode
the same functions are therefore called directly, through a :class:`torch.autograd.Function` where a gradient may be
asked for.
"""

from collections.abc import Callable, Iterable
from typing import Any, get_type_hints

import torch
from torch import Tensor

from ..errors import argument_error
from ..native import holds_values
from .inputs import fields, flat_schema, flatten, is_inputs


class Operator:
    """A kernel, registered as ``seqconv::name``.

    Args:
        name: of the operator.
        run: computes the results. Its annotations give the schema: tensors, options, or classes of inputs
            (:mod:`.inputs`), which it receives as such while the dispatcher sees their fields.
        outputs: allocates tensors like the results, without values: the fake kernel. It takes what ``run`` takes.
        devices: the device types that ``run`` serves, as in :func:`torch.library.impl`.
        results: number of tensors returned, where the annotation of ``run`` leaves that open.
    """

    def __init__(
        self,
        name: str,
        run: Callable[..., Any],
        outputs: Callable[..., Any],
        devices: str = "cpu",
        results: int | None = None,
    ) -> None:
        self.qualified = f"seqconv::{name}"
        hints = {name: hint for name, hint in get_type_hints(run).items() if name != "return"}
        self._parameters = [hint if is_inputs(hint) else None for hint in hints.values()]
        self._names = [n for name, h in hints.items() for n in (fields(h).types if is_inputs(h) else [name])]
        torch.library.define(self.qualified, flat_schema(run, results), tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(self.qualified, devices)(lambda *flat: run(*self.pack(flat)))
        torch.library.register_fake(self.qualified)(lambda *flat: outputs(*self.pack(flat)))
        self.run = run
        self._registered = getattr(torch.ops.seqconv, name).default
        self._function = _function(self.qualified, self.pack, run, lambda *_: None, self._no_gradient)

    def pack(self, flat: Iterable[Any]) -> tuple[Any, ...]:
        """The arguments of ``run`` from those of the dispatcher."""
        values = iter(flat)
        return tuple(
            next(values) if inputs is None else inputs(*(next(values) for _ in fields(inputs).types))
            for inputs in self._parameters
        )

    def differentiate(self, save: Callable[..., None], gradients: Callable[..., Any]) -> None:
        """Register the gradient.

        Args:
            save: ``save(ctx, arguments, results)`` after the forward pass, with the arguments of ``run``.
            gradients: ``gradients(ctx, *cotangents)`` returns the gradients by the names of the inputs, or a tuple
                with one for every argument of the dispatcher.
        """

        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            save(ctx, self.pack(inputs), output)

        def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
            found = gradients(ctx, *cotangents)
            return tuple(found.get(name) for name in self._names) if isinstance(found, dict) else found

        torch.library.register_autograd(self.qualified, backward, setup_context=setup_context)
        self._function = _function(self.qualified, self.pack, self.run, save, backward)

    def _no_gradient(self, *_: Any) -> None:
        remedy = "compute with implementation='reference'"
        raise argument_error(self.qualified, "a call for its gradient", "none: it has no gradient", remedy)

    def __call__(self, *arguments: Any) -> Any:
        """The results."""
        flat = flatten(arguments)
        tensors = [value for value in flat if isinstance(value, Tensor)]
        if needs_dispatcher(tensors):
            return self._registered(*flat)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return self._function.apply(*flat)
        return self.run(*arguments)


def _function(
    name: str,
    pack: Callable[..., tuple[Any, ...]],
    run: Callable[..., Any],
    save: Callable[..., None],
    gradients: Callable[..., Any],
) -> type[torch.autograd.Function]:
    """The kernel as autograd calls it."""

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *flat: Any) -> Any:
            arguments = pack(flat)
            results = run(*arguments)
            save(ctx, arguments, results)
            return results

        backward = staticmethod(gradients)

    Direct.__name__ = Direct.__qualname__ = name.replace("::", "_")
    return Direct


def operator(
    name: str, outputs: Callable[..., Any], results: int | None = None
) -> Callable[[Callable[..., Any]], Operator]:
    """Make an :class:`Operator` for every device type of an annotated function."""
    return lambda run: Operator(name, run, outputs, "default", results)


def typed_like(tensors: Iterable[Tensor | None], gradients: Iterable[Tensor]) -> list[Tensor | None]:
    """The gradients in the dtypes of their tensors, ``None`` where there is no tensor."""
    pairs = zip(tensors, gradients, strict=True)
    return [None if t is None else g if g.dtype == t.dtype else g.to(t.dtype) for t, g in pairs]


def empty_like(like: Tensor, tensor: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor of that shape without values, on the device of ``like``; an empty one for ``None``."""
    if tensor is None:
        return like.new_empty(0, dtype=dtype)
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)


def needs_dispatcher(tensors: list[Tensor]) -> bool:
    """Whether more than autograd has to see these tensors: a tool, or the dispatcher, which resolves lazy values."""
    return is_observed() or not all(map(holds_values, tensors))


def is_observed() -> bool:
    """Whether a tool that sees operators of the dispatcher is active: a compiler, a mode, a transform, a profiler."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
        or torch._C._autograd._profiler_enabled()
    )
