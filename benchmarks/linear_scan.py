"""linear_scan against mambapy's parallel scan, a loop, and this project's chunked form in PyTorch, float32."""

from functools import partial
from importlib.util import find_spec

from torch import Tensor

import seqconv_kernels as K
from seqconv_kernels.linear_scan.cases import SHAPES, Shape, example_inputs

from .case import Case, Run

NAMES = ("hgrn-150m, 2048 tokens", "s5 on 16384 tokens")
SWEEP = (256, 512, 1024, 2048, 4096, 8192)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(SHAPES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case(Shape(1, length, 1024), f"1024 channels, {length} tokens")


def _case(shape: Shape, name: str) -> Case:
    contenders: dict[str, Run] = {
        "seqconv": partial(K.linear_scan, implementation="cpu"),
        "chunked in PyTorch": partial(K.linear_scan, implementation="chunked"),
        "loop": partial(K.linear_scan, implementation="reference"),
    }
    if find_spec("mambapy"):
        contenders["mambapy"] = _mambapy
    work = 2.0 * shape.batch * shape.length * shape.channels
    return Case("linear_scan", name, shape.length, example_inputs(shape), contenders, operations=work)


def _mambapy(a: Tensor, x: Tensor) -> Tensor:
    from mambapy.pscan import pscan

    h: Tensor = pscan(a[..., None], x[..., None])[..., 0]
    return h
