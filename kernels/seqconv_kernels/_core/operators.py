"""Kernels as PyTorch operators, called straight where nothing but autograd looks on.

The compiler, exports, tracers, modes and profilers see a kernel only as an operator of the dispatcher. A call
of one in Python enters Python again at every layer, which takes longer than a small kernel. In plain eager mode
the same functions are therefore called directly, through a :class:`torch.autograd.Function` where a gradient may be
asked for.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .errors import argument_error
from .native import holds_values


class Operator:
    """A kernel, registered as ``seqconv::name``.

    Args:
        name: of the operator.
        schema: its arguments and results, in the language of :func:`torch.library.define`.
        run: computes the results.
        room: makes tensors like the results, without values: the fake kernel.
        devices: the device types that ``run`` serves, as in :func:`torch.library.impl`.
    """

    def __init__(
        self, name: str, schema: str, run: Callable[..., Any], room: Callable[..., Any], devices: str = "cpu"
    ) -> None:
        self.qualified = f"seqconv::{name}"
        torch.library.define(self.qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(self.qualified, devices)(run)
        torch.library.register_fake(self.qualified)(room)
        self.run = run
        self._registered = getattr(torch.ops.seqconv, name).default
        self._function = _function(self.qualified, run, lambda *_: None, self._refuse)

    def differentiate(self, save: Callable[..., None], gradients: Callable[..., Any]) -> None:
        """Register the gradient: ``save(ctx, inputs, output)`` after the forward, ``gradients(ctx, *cotangents)``."""
        torch.library.register_autograd(self.qualified, gradients, setup_context=save)
        self._function = _function(self.qualified, self.run, save, gradients)

    def _refuse(self, *_: Any) -> None:
        remedy = "compute with implementation='reference'"
        raise argument_error(self.qualified, "a call for its gradient", "none: it has no gradient", remedy)

    def __call__(self, *arguments: Any) -> Any:
        """The results."""
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        if needs_dispatcher(tensors):
            return self._registered(*arguments)
        learning = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        return self._function.apply(*arguments) if learning else self.run(*arguments)


def _function(
    name: str, run: Callable[..., Any], save: Callable[..., None], gradients: Callable[..., Any]
) -> type[torch.autograd.Function]:
    """The kernel as autograd calls it."""

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            results = run(*arguments)
            save(ctx, arguments, results)
            return results

        backward = staticmethod(gradients)

    Direct.__name__ = Direct.__qualname__ = name.replace("::", "_")
    return Direct


def operator(name: str, room: Callable[..., Any]) -> Callable[[Callable[..., Any]], Operator]:
    """Make an :class:`Operator` for every device type of an annotated function, from which its schema is read."""

    def register(run: Callable[..., Any]) -> Operator:
        schema = torch.library.infer_schema(run, mutates_args=())
        return Operator(name, schema, run, room, "default")

    return register


def typed_like(tensors: Iterable[Tensor | None], gradients: Iterable[Tensor]) -> list[Tensor | None]:
    """The gradients in the dtypes of their tensors, ``None`` where there is no tensor."""
    pairs = zip(tensors, gradients, strict=True)
    return [None if t is None else g if g.dtype == t.dtype else g.to(t.dtype) for t, g in pairs]


def room(like: Tensor, tensor: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Room for a contiguous tensor of that shape, or an empty one where it is absent, on the device of ``like``."""
    if tensor is None:
        return like.new_empty(0, dtype=dtype)
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)


def needs_dispatcher(tensors: list[Tensor]) -> bool:
    """Whether somebody else than autograd has to see these tensors: a tool, or who gives lazy ones their values."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
        or torch._C._autograd._profiler_enabled()
        or not all(map(holds_values, tensors))
    )
