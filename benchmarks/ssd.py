"""ssd against transformers' path at its default chunk and at chunk 64, and chunked matrix products here, float32."""

from functools import partial
from typing import Any

from torch import Tensor
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

import seqconv_kernels as K
from seqconv_kernels.ssd.cases import SHAPES, Shape, example_inputs

from .case import Case, Run

NAMES = ("8 heads of 64, 4096 tokens", "mamba2-130m, 2048 tokens")
SWEEP = (256, 512, 1024, 2048, 4096, 8192)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SHAPES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(1, length, 8, 64, 1, 64), f"8 heads of 64, {length} tokens")


def _case(shape: Shape, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.ssd, implementation="cpu"),
        "transformers, chunk 256": partial(_fallback, chunk_size=256),
        "transformers, chunk 64": partial(_fallback, chunk_size=64),
        "chunked in PyTorch": partial(K.ssd, implementation="chunked"),
    }
    inputs = example_inputs(shape)
    inputs.pop("z")
    work = 4.0 * shape.batch * shape.length * shape.heads * shape.head_dim * shape.d_state
    return Case("ssd", name, shape.length, inputs, contenders, operations=work)


def _fallback(x: Tensor, *, chunk_size: int, **inputs: Any) -> Tensor:
    y: Tensor = mamba2_chunk_scan(x, **inputs, chunk_size=chunk_size)
    return y
