"""Every op on two threads beside one, float32, by the clock on the wall: only on a quiet machine is it telling."""

from typing import Any

import torch

from .contenders import Run, compare
from .every_op import calls


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per op and direction; two threads are called seqconv."""

    def on(threads: int, run: Run) -> Run:
        def call(**inputs: Any) -> Any:
            torch.set_num_threads(threads)
            return run(**inputs)

        return call

    rows = []
    for op, (run, inputs) in calls().items():
        torch.set_num_threads(2)
        rows += compare(op, op, inputs, {"seqconv": on(2, run), "one thread": on(1, run)}, seconds)
    return rows
