"""The inputs of the diagonal scan and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds
from .._core.triton.support import unsupported_reason


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.linear_scan`, a step without the length.

    ``initial_state`` is the state before a step, too.
    """

    a: Tensor
    x: Tensor
    initial_state: Tensor | None
    cu_seqlens: Bounds | None = None


SCAN: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "linear_scan",
    Inputs,
    Implementation("triton", "linear_scan.triton:linear_scan", "linear_scan.spec:triton_unsupported_reason"),
    Implementation("cpu", "linear_scan.cpu:linear_scan", "_core.native:unsupported_reason"),
    Implementation("chunked", "linear_scan.chunked:linear_scan", "_core.native:differentiated_unsupported_reason"),
    Implementation("reference", "linear_scan.reference:linear_scan"),
)
STEP: Op[Inputs, Tensor] = Op(
    "linear_scan_step", Inputs, Implementation("reference", "linear_scan.reference:linear_scan_step")
)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return unsupported_reason(inputs, activation="x")
