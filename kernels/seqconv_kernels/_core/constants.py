"""Tensors that depend on sizes alone: made once, and the same for every call that follows."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar, TypeVarTuple, Unpack

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .native import transformed

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
