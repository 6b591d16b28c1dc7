"""Kernels of S4D (Vandermonde) and S4 (Cauchy) against naive complex products and chunked ones here, float32."""

from functools import partial

import seqconv_kernels as K
from seqconv_kernels.ssm_kernel.cases import SHAPES, Shape, cauchy_inputs, vandermonde_inputs

from .case import Case

OPS = {"vandermonde": K.vandermonde, "cauchy": K.cauchy}
INPUTS = {"vandermonde": vandermonde_inputs, "cauchy": cauchy_inputs}
OPERATIONS = {"vandermonde": 4.0, "cauchy": 7.0}
"""Per pole and tap: a complex product's real part; half a complex division for each of half as many frequencies."""
CASES = {
    f"{op}, {name}": (op, shape)
    for op in OPS
    for name, shape in {
        "256 channels of 32 pairs, 16384 taps": Shape(1, 256, 32, 16384),
        "long range arena text": SHAPES["S4D, long range arena text"],
    }.items()
}
NAMES = tuple(CASES)
SWEEP = (1024, 2048, 4096, 8192, 16384)


def case(name: str) -> Case:
    """One shape of the table."""
    return _case(*CASES[name], name)


def sweep(length: int) -> Case:
    """The shape of the plots."""
    return _case("vandermonde", Shape(1, 256, 32, length), f"vandermonde, 256 channels of 32 pairs, {length} taps")


def _case(op: str, shape: Shape, name: str) -> Case:
    implementations = {"seqconv": "cpu", "naive complex": "reference", "chunked in PyTorch": "chunked"}
    return Case(
        "ssm_kernel", name, shape.length, INPUTS[op](shape),
        {contender: partial(OPS[op], implementation=named) for contender, named in implementations.items()},
        operations=OPERATIONS[op] * shape.heads * shape.channels * shape.pairs * shape.length,
        tolerance=2e-3,  # 16,384 powers in float32: the naive product is off by this much in the gradients
    )  # fmt: skip
