"""What the calls of all ops are made of: a case, numbers, packed sequences, single tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """One call: what runs, and its arguments for a batch (or a number of packed segments) and a length.

    Attributes:
        run: the op, its outputs as a tuple.
        inputs: makes the arguments.
        free: names of tensors whose first axis may have any length: nothing else has it.
    """

    run: Callable[..., tuple[Tensor, ...]]
    inputs: Callable[[int, int], dict[str, Any]]
    free: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Small ones; bounds and lengths are left at those of ``run``."""
        return {k: v for k, v in self.inputs(2, 5).items() if k not in ("cu_seqlens", "length")}


def normal(*size: int) -> Tensor:
    rng = torch.Generator().manual_seed(sum(size))
    return torch.randn(*size, generator=rng, dtype=torch.float64)


def gates(*size: int) -> Tensor:
    return torch.nn.functional.logsigmoid(normal(*size))


def complex_normal(*size: int) -> Tensor:
    return torch.complex(normal(*size), gates(*size))


def packed_inputs(inputs: Callable[..., dict[str, Tensor]]) -> Callable[[int, int], dict[str, Any]]:
    """The first segments of two tokens each, the last of what is left."""

    def build(segments: int, length: int) -> dict[str, Any]:
        bounds = torch.tensor([*range(0, 2 * segments, 2), length])
        return inputs(1, length, segments) | {"cu_seqlens": bounds}

    return build


def whole(op: Callable[..., Tensor], **options: object) -> Callable[..., tuple[Tensor]]:
    """An op of one output, as a function that returns a tuple."""
    return lambda **arguments: (op(**(options | arguments)),)


with_state = partial(partial, return_final_state=True)
packed = partial(with_state, cu_seqlens=torch.tensor([0, 2, 5]))


def token(inputs: Callable[[int, int], dict[str, Tensor]], tokens: tuple[str, ...]) -> Callable[[int, int], Any]:
    """The first time step of the arguments called ``tokens``, with the state under the name that steps give it."""

    def build(batch: int, _: int) -> dict[str, Tensor]:
        whole = inputs(batch, 5)
        state = {"state": whole.pop("initial_state")}
        return {k: v[:, 0] if k in tokens else v for k, v in whole.items()} | state

    return build
