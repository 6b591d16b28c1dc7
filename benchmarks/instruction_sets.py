"""Every op on each instruction set that this processor has, forward and backward, float32."""

from dataclasses import replace
from typing import Any

from seqconv_kernels._core import native

from .case import Run, compare
from .table import own_cases


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and direction; the fastest set is called seqconv."""
    library = native.library()
    best, *others = library.isas()

    def on(isa: str, run: Run) -> Run:
        def call(**inputs: Any) -> Any:
            library.set_isa(isa)
            return run(**inputs)

        return call

    rows = []
    for case in own_cases():
        run = case.contenders["seqconv"]
        contenders = {"seqconv": on(best, run)} | {isa: on(isa, run) for isa in others}
        rows += compare(replace(case, shape=f"{case.op}: {case.shape}", contenders=contenders), seconds)
    library.set_isa(best)
    return rows
