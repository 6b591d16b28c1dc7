"""gated_linear_attention against the naive loop and the chunked matrix products in PyTorch, float32."""

from functools import partial

import seqconv_kernels as K
from seqconv_kernels.gated_linear_attention.shapes import SHAPES, example_inputs

from .contenders import Run, compare

NAME = "8 heads of 64, 4096 tokens"


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per decay and direction: milliseconds of each contender."""
    implementations = {"seqconv": "cpu", "naive loop": "reference", "chunked in PyTorch": "chunked"}
    contenders: dict[str, Run] = {
        name: partial(K.gated_linear_attention, implementation=implementation)
        for name, implementation in implementations.items()
    }
    rows = []
    for decay in ("vector", "scalar", "none"):
        inputs = example_inputs(SHAPES[NAME], decay=decay)
        rows += compare("gated_linear_attention", f"{NAME}, decay {decay}", inputs, contenders, seconds)
    return rows
