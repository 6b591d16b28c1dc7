"""The checks that ops share; each raises before any work is done."""

from collections.abc import Collection, Mapping
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .errors import argument_error
from .native import PLAIN


def readable(tensor: Tensor) -> bool:
    """Whether values may be looked at: cheaply, and not while compiling, tracing or transforming."""
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return type(tensor) in PLAIN and tensor.device.type == "cpu" and not (torch.compiler.is_compiling() or transformed)


def check_shape(operation: str, name: str, tensor: Tensor | None, axes: str, wanted: tuple[int, ...]) -> None:
    """Require the shape ``wanted``, whose axes are called ``axes``; ``None`` passes.

    Raises:
        ValueError: the shapes differ.
    """
    if tensor is not None and tuple(tensor.shape) != wanted:
        got = f"{name} of shape {tuple(tensor.shape)}"
        raise argument_error(operation, got, f"({axes}) = {wanted}", f"reshape or transpose {name}")


def check_shape_among(
    operation: str, name: str, tensor: Tensor | None, wanted: Collection[tuple[int, ...]], remedy: str
) -> None:
    """Require one of the shapes ``wanted``; ``None`` passes.

    Raises:
        ValueError: the shape is another one.
    """
    # Tuple by tuple: a compiler that keeps sizes open follows this, and need not look into a container of sizes.
    if tensor is not None and not any(tuple(tensor.shape) == tuple(shape) for shape in wanted):
        shapes = " or ".join(str(tuple(shape)) for shape in wanted)
        raise argument_error(operation, f"{name} of shape {tuple(tensor.shape)}", shapes, remedy)


def check_floating(operation: str, tensors: Mapping[str, Tensor | None], device: torch.device) -> None:
    """Require real floating dtypes on one device; ``None`` passes.

    Raises:
        ValueError: the first tensor that does not fit.
    """
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.device != device or not tensor.is_floating_point()):
            got = f"{name} of dtype {tensor.dtype} on {tensor.device}"
            raise argument_error(operation, got, f"a real floating dtype on {device}", f"convert {name} with .to()")


def check_same_dtype(operation: str, tensors: Mapping[str, Tensor | None]) -> None:
    """Require one dtype; ``None`` passes.

    Raises:
        ValueError: the first tensor whose dtype is not that of the first one.
    """
    first, *others = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    for name, tensor in others:
        if tensor.dtype != first[1].dtype:
            got = f"{first[0]} of dtype {first[1].dtype} and {name} of dtype {tensor.dtype}"
            raise argument_error(
                operation, got, "one dtype for all activations", f"convert {name} with .to({first[0]}.dtype)"
            )


def widest_under_autocast(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Under autocast, which mixes dtypes, the floating tensors in the widest dtype among them; else as they are."""
    if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
        return tensors
    given = [t for t in tensors if t is not None]
    if given[0].is_meta or not torch.is_autocast_enabled(given[0].device.type):  # the meta device knows no autocast
        return tensors
    widest = reduce(torch.promote_types, (t.dtype for t in given))
    return tuple(None if t is None else t.to(widest) for t in tensors)


def check_cu_seqlens(operation: str, cu_seqlens: Tensor, x: Tensor) -> None:
    """Require bounds that increase from 0 to the total length of a batch of one.

    The values are not read while compiling, nor on the meta device.

    Raises:
        ValueError: batch other than 1, wrong dtype or rank, not strictly increasing, wrong first or last entry.
    """
    remedy = "give the cumulated lengths, torch.tensor([0, n1, n1 + n2, ...]), with a batch of one: (1, total, ...)"
    if x.shape[0] != 1:
        raise argument_error(operation, f"cu_seqlens with a batch of {x.shape[0]}", "a batch of 1", remedy)
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64) or len(cu_seqlens) < 2:
        got = f"cu_seqlens of shape {tuple(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}"
        raise argument_error(operation, got, "one axis of int32 or int64 with at least two entries", remedy)
    if torch.compiler.is_compiling() or cu_seqlens.device.type == "meta":
        return
    bounds = cu_seqlens.tolist()
    increasing = all(a < b for a, b in pairwise(bounds))
    if bounds[0] != 0 or bounds[-1] != x.shape[1] or not increasing:
        raise argument_error(operation, f"cu_seqlens={bounds}", f"increasing from 0 to the length {x.shape[1]}", remedy)
