"""Every op on each instruction set that this processor has, forward and backward, float32."""

from typing import Any

from seqconv_kernels import native

from .contenders import Run, compare
from .every_op import calls


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per op and direction; the fastest set is called seqconv."""
    library = native.library()
    best, *others = library.isas()

    def on(isa: str, run: Run) -> Run:
        def call(**inputs: Any) -> Any:
            library.set_isa(isa)
            return run(**inputs)

        return call

    rows = []
    for op, (run, inputs) in calls().items():
        contenders = {"seqconv": on(best, run)} | {isa: on(isa, run) for isa in others}
        rows += compare(op, op, inputs, contenders, seconds)
    library.set_isa(best)
    return rows
