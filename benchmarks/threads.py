"""Every op on two threads beside one, float32, by the clock on the wall: only on a quiet machine is it telling."""

import time
from dataclasses import replace
from typing import Any

import torch

from .case import Run, compare
from .table import ours


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and direction; two threads are called seqconv."""

    def on(threads: int, run: Run) -> Run:
        def call(**inputs: Any) -> Any:
            torch.set_num_threads(threads)
            return run(**inputs)

        return call

    rows = []
    for case in ours():
        torch.set_num_threads(2)
        run = case.contenders["seqconv"]
        contenders = {"seqconv": on(2, run), "one thread": on(1, run)}
        rows += compare(
            replace(case, shape=f"{case.op}: {case.shape}", contenders=contenders), seconds, clock=time.perf_counter
        )
    return rows
