"""The compiled extension: loaded at the first use, and the reason where it cannot be.

The extension includes no torch header. It gets addresses, dtypes, shapes and strides, so that one binary serves
every version of torch, and it checks them again on its side.
"""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .operator.inputs import given_tensors

View = tuple[int, int, tuple[int, ...], tuple[int, ...]] | tuple[()]

PLAIN = (Tensor, torch.nn.Parameter)
"""Types of tensors without a behaviour of their own."""
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.int64: 4}
"""What the extension calls dtypes."""


@cache
def _load() -> tuple[Any, str | None]:
    try:
        return import_module("seqconv_kernels._native"), None
    except ImportError as error:
        return None, f"the compiled extension is missing ({error}); install seqconv where a C++ compiler is found"


def unavailable() -> str | None:
    """Why no native kernel can run here, or ``None``."""
    return _load()[1]


# What torch.compiler.assume_constant_result sets; calling that would import the whole compiler here.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def library() -> Any:
    """The extension module.

    Raises:
        ImportError: it is missing; :func:`unavailable` says so beforehand.
    """
    module, reason = _load()
    if reason is not None:
        raise ImportError(reason)
    return module


def code(tensor: Tensor) -> int:
    """What the extension calls the tensor's dtype."""
    return CODES[tensor.dtype]


def view(tensor: Tensor | None) -> View:
    """What the extension is told of a tensor: address, dtype, shape, strides; ``()`` for none."""
    if tensor is None:
        return ()
    return tensor.data_ptr(), CODES[tensor.dtype], tuple(tensor.shape), tensor.stride()


def view_in_time(tensor: Tensor | None, reverse: bool) -> View:
    """:func:`view` of ``(batch, length, ...)``; ``reverse`` shows the last step first, at a negative distance."""
    if tensor is None or not reverse or tensor.numel() == 0:
        return view(tensor)
    batch, step, *others = tensor.stride()
    last = tensor.data_ptr() + (tensor.shape[1] - 1) * step * tensor.element_size()
    return last, CODES[tensor.dtype], tuple(tensor.shape), (batch, -step, *others)


def token_views(*tensors: Tensor | None) -> tuple[list[Tensor | None], list[View]]:
    """What the extension is told of tensors of one token, (batch, ...), as sequences of length 1: (batch, 1, ...).

    Returns:
        The tensors that have to live until it returns (copies where a last axis was not dense), and their views.
    """
    kept: list[Tensor | None] = []
    views: list[View] = []
    for tensor in tensors:
        if tensor is None:
            views.append(())
            continue
        strides = tensor.stride()
        if strides[-1] != 1 and tensor.shape[-1] != 1:
            tensor = tensor.contiguous()
            strides = tensor.stride()
        batch, *sizes = tensor.shape
        kept.append(tensor)
        views.append((tensor.data_ptr(), CODES[tensor.dtype], (batch, 1, *sizes), (strides[0], *strides)))
    return kept, views


def parameter_views(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[list[Tensor | None], list[View]]:
    """What the extension is told of tensors that it wants contiguous and in ``dtype``; copies where they are not.

    Returns:
        The tensors that have to live until it returns, and their views.
    """
    kept: list[Tensor | None] = []
    views: list[View] = []
    for tensor in tensors:
        if tensor is not None and (tensor.dtype is not dtype or not tensor.is_contiguous()):
            tensor = tensor.to(dtype).contiguous()
        kept.append(tensor)
        views.append(() if tensor is None else (tensor.data_ptr(), CODES[dtype], tuple(tensor.shape), tensor.stride()))
    return kept, views


def holds_values(tensor: Tensor) -> bool:
    """Whether the kernels find the tensor's values in its memory: no subclass, nothing left to negate or conjugate.

    The dispatcher resolves all others before it calls an operator; a direct call must not receive them.
    """
    lazy = tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor()
    return type(tensor) in PLAIN and not lazy


def memory_reason(name: str, tensor: Tensor) -> str | None:
    """Why the kernels do not find a tensor's values in its memory, or ``None``."""
    if type(tensor) not in PLAIN:
        return f"{name} is a {type(tensor).__name__}, whose memory the native kernels cannot see"
    return None if holds_values(tensor) else f"{name} is lazily negated: its memory does not hold its values"


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor itself if its last axis is dense, else a contiguous copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself if it has that dtype and is contiguous, else a copy: calls that do nothing take time too."""
    return tensor if tensor.dtype == dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()


def unsupported_reason(
    inputs: tuple[Any, ...], *, activation: str | None = None, parameters: Iterable[str] = ()
) -> str | None:
    """Why no native kernel serves these inputs, whatever the op, or ``None``.

    Args:
        inputs: of the op.
        activation: name of the tensor whose dtype decides that of the sums: float64 for float64, else float32.
        parameters: names of the tensors that enter the sums as they are, so must not be wider than them.
    """
    tensors = given_tensors(inputs)
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu":
            return f"{name} is on {tensor.device}, the native kernels run on CPU"
        if tensor.dtype not in CODES and tensor.is_floating_point():
            return f"{name} has dtype {tensor.dtype}, wanted float32, float64, bfloat16 or float16"
    if activation is not None:
        sums = accumulator_dtype(tensors[activation])
        for name in parameters:
            if name in tensors and torch.promote_types(tensors[name].dtype, sums) != sums:
                return f"{name} of dtype {tensors[name].dtype} is wider than the sums, {sums}"
    if not torch.compiler.is_compiling() and transformed():
        return "under torch.func or forward-mode differentiation, which the operators of the kernels have no rule for"
    return unavailable()


def accumulator_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which a kernel adds up what it loads from such a tensor."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def bounds_on_cpu(cu_seqlens: Tensor | None) -> Tensor | None:
    """Bounds of packed sequences as the extension reads them."""
    return None if cu_seqlens is None else cu_seqlens.to("cpu", torch.int64).contiguous()


def differentiated_unsupported_reason(_: tuple[Any, ...]) -> str | None:
    """Why an operator with a rule for vmap, and a gradient that torch.func can't use, supports no call, or ``None``."""
    if torch.compiler.is_compiling():
        return None
    stack = torch._C._functorch.get_interpreter_stack() or []
    if all(i.key() == torch._C._functorch.TransformType.Vmap for i in stack) and not forward_mode():
        return None
    return "under torch.func or forward-mode differentiation, for which its gradient has no rule"


def forward_mode() -> bool:
    """Whether forward-mode differentiation is active."""
    return torch.autograd.forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation sees the calls."""
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
