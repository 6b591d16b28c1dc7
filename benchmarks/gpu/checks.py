"""Correctness of every Triton kernel, in every dtype it serves, against the reference in float64.

The error is the norm of the difference over the norm of the reference, for the outputs, the final states and the
gradient of every input. Inputs are random, rounded to the dtype under test before the reference sees them; memory
that a kernel gets to write its results is filled with NaN before; a second run must give the same bits.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from seqconv_kernels._core.triton.withdrawn import WITHDRAWN

from .interpreter import rounds_to_nearest
from .workers import Item, Row

Inputs = dict[str, Any]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Per output: sums are in float32 at least, so half precision shows the rounding of inputs' products and results."""


@dataclass(frozen=True)
class Check:
    """One op at one shape with one set of options.

    Attributes:
        op: name of the op.
        name: the shape and options, in words.
        run: the op; takes ``inputs`` and ``implementation``, returns a tensor or tensors.
        inputs: makes the keyword arguments for a dtype on the CPU, the same draws for every dtype.
        options: further keyword arguments, without gradients.
        dtypes: those under test.
        tolerances: that differ from :data:`TOLERANCES`.
    """

    op: str
    name: str
    run: Callable[..., Any]
    inputs: Callable[[torch.dtype], Inputs]
    options: Mapping[str, Any]
    dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCES)
    tolerances: Mapping[torch.dtype, float] = field(default_factory=lambda: TOLERANCES)


def items(checks: Iterable[Check], device: str) -> list[Item]:
    """One per check and dtype; its row names the largest error and whose it is."""
    return [_item(check, dtype, device) for check in checks for dtype in check.dtypes]


def _item(check: Check, dtype: torch.dtype, device: str) -> Item:
    name = {"op": check.op, "case": check.name, "dtype": str(dtype).removeprefix("torch.")}

    def rows() -> Iterator[Row]:
        start = time.monotonic()
        # What was withdrawn is checked again: that is how it comes back.
        with _poisoned(), rounds_to_nearest(), patch.dict(WITHDRAWN, clear=True):
            found = _compare(check, dtype, device)
        yield {**name, **found, "seconds": round(time.monotonic() - start, 2)}

    return Item(name, rows)


@contextmanager
def _poisoned() -> Iterator[None]:
    """Memory that is not written to holds NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _compare(check: Check, dtype: torch.dtype, device: str) -> dict[str, Any]:
    inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in check.inputs(dtype).items()}
    options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in check.options.items()}
    wide = {k: _widened(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    want = _results(check.run, wide, {**options, "implementation": "reference"})
    got = _results(check.run, inputs, {**options, "implementation": "triton"})
    again = _results(check.run, inputs, {**options, "implementation": "triton"})
    errors = {name: _error(got[name], want[name]) for name in want}
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else torch.inf)
    repeatable = all(torch.equal(got[name], again[name]) for name in want)
    passed = errors[worst] <= check.tolerances[dtype] and repeatable
    return {
        "passed": passed, "error": errors[worst], "of": worst, "tolerance": check.tolerances[dtype],
        "repeatable": repeatable, "note": "",
    }  # fmt: skip


def _widened(t: Tensor) -> Tensor:
    if t.is_complex():
        return t.to(torch.complex128)
    return t.double() if t.is_floating_point() else t


def _results(run: Callable[..., Any], inputs: Inputs, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs, and gradients of all inputs for one direction drawn at random."""
    differentiable = [k for k, v in inputs.items() if isinstance(v, Tensor) and not _integral(v)]
    leaves = {k: inputs[k].detach().clone().requires_grad_() for k in differentiable}
    result = run(**{**inputs, **leaves}, **options)
    outputs = result if isinstance(result, tuple) else (result,)
    directions = [_direction(y, i) for i, y in enumerate(outputs)]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), directions)
    named = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
    return named | {f"gradient of {k}": g for k, g in zip(leaves, gradients, strict=True)}


def _integral(t: Tensor) -> bool:
    return not (t.is_floating_point() or t.is_complex())


def _direction(y: Tensor, seed: int) -> Tensor:
    """The same values in every dtype: a draw depends on its own, and rounding must not."""
    if y.is_complex():
        return torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64).to(y)
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return drawn.to(torch.bfloat16).to(y)


def _error(got: Tensor, want: Tensor) -> float:
    wide = _widened(got)
    scale = want.norm()
    return float((wide - want).norm() / scale) if scale else float(wide.norm())
