"""What depends on sizes alone, or on a tensor that stays: made once, and the same for every call that follows."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar, TypeVarTuple, Unpack

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.weak import WeakIdKeyDictionary

from .native import PLAIN, transformed
from .operator.operators import is_observed

Sizes = TypeVarTuple("Sizes")
R = TypeVar("R")


def made_once(count: int) -> Callable[[Callable[[Unpack[Sizes]], R]], Callable[[Unpack[Sizes]], R]]:
    """Decorator: keep what the last ``count`` arguments gave.

    What is kept are plain tensors, whichever call comes first: not those of inference mode, which no backward pass may
    save, nor of a default device, nor of a tracer or transform, which end with it. Under the latter, and while
    compiling, the function is called.
    """

    def decorate(make: Callable[[Unpack[Sizes]], R]) -> Callable[[Unpack[Sizes]], R]:
        def plain(*args: *Sizes) -> R:
            with torch.inference_mode(False), torch.device("cpu"):
                return make(*args)

        kept = lru_cache(count)(plain)

        @wraps(make)
        def get(*args: *Sizes) -> R:
            if torch.compiler.is_compiling():
                return make(*args)
            if transformed() or _get_current_dispatch_mode() is not None:
                with torch.device("cpu"):
                    return make(*args)
            return kept(*args)

        return get

    return decorate


def once_per_tensor(make: Callable[[Tensor], R]) -> Callable[[Tensor], R]:
    """Decorator: keep what a function gave for a tensor until that is overwritten or freed."""
    known = WeakIdKeyDictionary()

    @wraps(make)
    def get(tensor: Tensor) -> R:
        if is_observed() or type(tensor) not in PLAIN or tensor.is_inference():
            return make(tensor)
        entry: tuple[int, R] | None = known.get(tensor)
        if entry is None or entry[0] != tensor._version:
            with torch.inference_mode(False):  # what is kept may be saved for a backward pass later
                entry = known[tensor] = tensor._version, make(tensor)
        return entry[1]

    return get
