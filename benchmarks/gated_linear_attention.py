"""gated_linear_attention against naive loops (here and fla's) and chunked matrix products in PyTorch, float32."""

from functools import partial
from importlib.util import find_spec

from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.gated_linear_attention.cases import SHAPES, Shape, example_inputs

from .case import Case, Run

SHAPE = "8 heads of 64, 4096 tokens"
NAMES = tuple(f"{SHAPE}, decay {decay}" for decay in ("vector", "scalar", "none"))
SWEEP = (256, 512, 1024, 2048, 4096)


def case(name: str) -> Case:
    """One decay of the table."""
    return _case(SHAPES[SHAPE], name, name.rpartition(" ")[2])


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(1, length, 8, 64, 64), f"8 heads of 64, {length} tokens", "vector")


def _case(shape: Shape, name: str, decay: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.gated_linear_attention, implementation="cpu"),
        "naive loop": partial(K.gated_linear_attention, implementation="reference"),
        "chunked in PyTorch": partial(K.gated_linear_attention, implementation="chunked"),
    }
    if decay == "vector" and find_spec("fla"):
        contenders["fla, naive"] = _fla
    inputs = example_inputs(shape, decay=decay)  # type: ignore[arg-type]
    work = 4.0 * shape.batch * shape.length * shape.heads * shape.d_k * shape.d_v
    return Case("gated_linear_attention", name, shape.length, inputs, contenders, operations=work)


def _fla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    from fla.ops.gla.naive import naive_recurrent_gla

    o: Tensor = naive_recurrent_gla(q, k, v, log_decay)[0]
    return o
