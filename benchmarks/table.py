"""Which ops have shapes and contenders, ``benchmarks/<op>.py``, and how to build one of their cases."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from .case import Case

OPS = (
    "selective_scan", "causal_conv1d", "fft_conv", "linear_scan", "ssm_kernel", "gated_linear_attention", "ssd",
    "delta_rule", "dilated_conv",
)  # fmt: skip


def build(op: str, case: str) -> Case:
    """The case of that name in ``benchmarks/<op>.py``, or that of the plots for a length."""
    module: Any = import_module(f".{op}", __package__)
    built: Case = module.sweep(int(case)) if case.isdigit() else module.case(case)
    return built


def own_cases() -> Iterator[Case]:
    """Every case of every op, for comparisons of seqconv with itself; large, so made one at a time."""
    for op in OPS:
        for name in import_module(f".{op}", __package__).NAMES:
            yield build(op, name)
