"""The inputs of the cross scan and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.cross_selective_scan`, ``orders`` with their rows."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    delta_bias: Tensor | None
    orders: Bounds
    delta_softplus: bool


PARAMETERS = ("A", "D", "delta_bias")
"""Those that enter the sums as they are."""

SCAN: Op[Inputs, Tensor] = Op(
    "cross_selective_scan",
    Inputs,
    Implementation(
        "cpu", "cross_selective_scan.cpu:cross_selective_scan", "cross_selective_scan.cpu:unsupported_reason"
    ),
    Implementation("gathered", "cross_selective_scan.gathered:cross_selective_scan"),
    Implementation("reference", "cross_selective_scan.reference:cross_selective_scan"),
)
