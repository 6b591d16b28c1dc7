"""One shape of one op, and everyone who computes it: the check that they agree, then one row per direction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .measure import Ceilings, check_close, interleaved

Run = Callable[..., Any]
Call = Callable[[], tuple[Tensor, ...]]
DIRECTIONS = ("forward", "forward + backward")


@dataclass(frozen=True)
class Case:
    """One shape of one op.

    Attributes:
        op: name, for messages.
        shape: in words.
        length: along the sequence.
        inputs: keyword arguments that every contender takes; all tensors get a gradient.
        contenders: by name; the first is seqconv.
        operations: floating-point operations of the forward pass, at least; an exponential counts as ten.
        forward_only: contenders whose backward pass is left out, and why is said where they are listed.
        layouts: for a contender that is used to another memory layout, what its inputs are put through beforehand.
        tolerance: between the contenders, as a part of the largest magnitude.
    """

    op: str
    shape: str
    length: int
    inputs: Mapping[str, Any]
    contenders: Mapping[str, Run]
    operations: float = 0.0
    forward_only: frozenset[str] = frozenset()
    layouts: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    tolerance: float = 2e-4

    def calls(self, direction: str) -> dict[str, Call]:
        """What is timed: each contender's call without arguments."""
        wrap = both if direction == DIRECTIONS[1] else forward
        names = [n for n in self.contenders if direction == DIRECTIONS[0] or n not in self.forward_only]
        return {name: wrap(self.contenders[name], self._arranged(name)) for name in names}

    def _arranged(self, contender: str) -> Mapping[str, Any]:
        arrange = self.layouts.get(contender, lambda t: t)
        return {name: arrange(t) if isinstance(t, Tensor) else t for name, t in self.inputs.items()}

    def work(self, direction: str) -> tuple[float, float]:
        """Bytes that must cross the memory bus at least, and operations: twice as many operations backward."""
        tensors = [t for t in self.inputs.values() if isinstance(t, Tensor)]
        read = sum(t.numel() * t.element_size() for t in tensors)
        (y,) = forward(next(iter(self.contenders.values())), self.inputs)()
        written = y.numel() * y.element_size()
        if direction == DIRECTIONS[0]:
            return read + written, self.operations
        return (read + written) + (2 * read + written), 3 * self.operations


def compare(
    case: Case, seconds: float, ceilings: Ceilings | None = None, clock: Callable[[], float] | None = None
) -> list[dict[str, object]]:
    """Check that all contenders agree, values and gradients, then time them in turn: one row per direction."""
    rows: list[dict[str, object]] = []
    for direction in DIRECTIONS:
        runs = case.calls(direction)
        results = {name: run() for name, run in runs.items()}
        seqconv_results = next(iter(results.values()))
        for name, result in results.items():
            for got, want in zip(result, seqconv_results, strict=True):
                check_close(f"{case.op}, {name}", got, want, case.tolerance)
        del results, seqconv_results
        ms = interleaved(runs, seconds=seconds, clock=clock)
        row: dict[str, object] = {"shape": case.shape, "length": case.length, "direction": direction, "ms": ms}
        rows.append(row if ceilings is None else row | {"floor": ceilings.floor(*case.work(direction))})
    return rows


def channel_first(t: Tensor) -> Tensor:
    """The same values of a (batch, length, channels) tensor, with time dense in memory; others as they are."""
    return t.mT.contiguous().mT if t.dim() == 3 else t


def forward(run: Run, inputs: Mapping[str, Any]) -> Call:
    """The output, without a graph."""

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (run(**inputs),)

    return call


def both(run: Run, inputs: Mapping[str, Any]) -> Call:
    """The gradients of all tensors for one random direction of the output."""
    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items() if isinstance(v, Tensor)}
    with torch.no_grad():
        y = run(**inputs)
        weight = torch.empty_like(y).copy_(
            torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
        )

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(**{**inputs, **leaves}), list(leaves.values()), weight)

    return call
