"""ssd against transformers' path at its default chunk and at chunk 64, and chunked matrix products here, float32."""

from functools import partial
from typing import Any

from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

import seqconv_kernels as K
from seqconv_kernels.ssd.shapes import SHAPES, example_inputs

from .contenders import Run, compare

NAMES = ("8 heads of 64, 4096 tokens", "mamba2-130m, 2048 tokens")


def measure(seconds: float) -> list[dict[str, object]]:
    """One row per shape and direction: milliseconds of each contender."""
    contenders: dict[str, Run] = {
        "seqconv": partial(K.ssd, implementation="cpu"),
        "transformers, chunk 256": _fallback(256),
        "transformers, chunk 64": _fallback(64),
        "chunked in PyTorch": partial(K.ssd, implementation="chunked"),
    }
    rows = []
    for name in NAMES:
        inputs = example_inputs(SHAPES[name])
        inputs.pop("z")
        rows += compare("ssd", name, inputs, contenders, seconds)
    return rows


def _fallback(chunk_size: int) -> Run:
    def run(x: Tensor, **inputs: Any) -> Tensor:
        y: Tensor = mamba2_chunk_scan(x, **inputs, chunk_size=chunk_size)
        return y

    return run
