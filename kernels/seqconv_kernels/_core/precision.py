"""Where ops accumulate: float32 at least, whatever the activations are and whatever autocast would choose."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The widest dtype of the tensors given, float32 at least (complex if any is complex)."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = dtype if tensor is None else torch.promote_types(dtype, tensor.dtype)
    return dtype


def no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which products on the tensor's device keep the dtypes of their operands."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)  # none on meta


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Keep matrix products inside ``function`` in the dtypes that it chose.

    Its first argument is a tensor, or the inputs of an op, of which the first is a tensor.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0][0] if isinstance(args[0], tuple) else args[0]
        assert isinstance(first, Tensor)
        with no_autocast(first):
            return function(*args, **kwargs)

    return run
