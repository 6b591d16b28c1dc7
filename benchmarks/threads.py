"""Every op on two threads against one, float32, by wall time: informative on a quiet machine only.

The first rows are torch's: what two threads gain in a plain copy and in a matrix product, the most to be hoped for
where memory or arithmetic bounds an op.
"""

import time
from dataclasses import replace
from typing import Any

import torch

from .case import Run, compare
from .measure import COPIED, SQUARE, Ceilings, interleaved
from .table import own_cases


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and direction; two threads are called seqconv."""
    words = {
        "copy": f"the machine: copy of {4 * COPIED >> 20} MB",
        "multiply": f"the machine: matrix product of {SQUARE} rows",
    }
    rows: list[dict[str, object]] = []
    for name, run in Ceilings.runs().items():
        ms = interleaved(_both(run), seconds=seconds, clock=time.perf_counter)
        rows.append({"shape": words[name], "direction": "torch", "ms": ms})
    for case in own_cases():
        torch.set_num_threads(2)
        contenders = _both(case.contenders["seqconv"])
        rows += compare(
            replace(case, shape=f"{case.op}: {case.shape}", contenders=contenders), seconds, clock=time.perf_counter
        )
    return rows


def _both(run: Run) -> dict[str, Run]:
    """On two threads and on one."""

    def on(threads: int) -> Run:
        def call(**inputs: Any) -> Any:
            torch.set_num_threads(threads)
            return run(**inputs)

        return call

    return {"seqconv": on(2), "one thread": on(1)}
