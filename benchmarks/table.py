"""Which ops have shapes and contenders, ``benchmarks/<op>.py``, and how to build one of their cases."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from seqconv_kernels._core.registry import ops

from .case import Case

FOLDERS = {entry.folder.rpartition(".")[2] for entry in ops().values()}
OPS = tuple(sorted(folder for folder in FOLDERS if Path(__file__).with_name(f"{folder}.py").exists()))


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
