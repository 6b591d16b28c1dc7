"""One row per direction for contenders that take the same keyword arguments: forward, and forward with backward."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .measure import check_close, interleaved

Run = Callable[..., Any]


def compare(
    op: str, shape: str, inputs: Mapping[str, Any], contenders: Mapping[str, Run], seconds: float
) -> list[dict[str, object]]:
    """Check that all contenders agree, values and gradients, then time them in turn."""
    rows: list[dict[str, object]] = []
    for direction, wrap in (("forward", forward), ("forward + backward", both)):
        runs: dict[str, Callable[[], Any]] = {name: wrap(run, inputs) for name, run in contenders.items()}
        results = {name: run() for name, run in runs.items()}
        for name, result in results.items():
            check_close(f"{op}, {name}", result, results["seqconv"])
        ms = interleaved(runs, seconds=seconds)
        rows.append({"shape": shape, "direction": direction, "ms": ms})
    return rows


def forward(run: Run, inputs: Mapping[str, Any]) -> Callable[[], Tensor]:
    """The output, without a graph."""

    def call() -> Tensor:
        with torch.no_grad():
            y: Tensor = run(**inputs)
        return y

    return call


def both(run: Run, inputs: Mapping[str, Any]) -> Callable[[], Tensor]:
    """The gradients of all tensors, each as a part of its largest."""
    leaves = {k: v.clone().requires_grad_() for k, v in inputs.items() if isinstance(v, Tensor)}
    with torch.no_grad():
        weight = torch.randn(run(**inputs).shape, generator=torch.Generator().manual_seed(0))

    def call() -> Tensor:
        gradients = torch.autograd.grad(run(**{**inputs, **leaves}), list(leaves.values()), weight)
        return torch.cat([g.flatten() / g.abs().max() for g in gradients])

    return call
