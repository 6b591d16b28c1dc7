"""The inputs of the selective scan and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds
from .._core.triton.support import unsupported_reason


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.selective_scan`, a step without the length.

    ``initial_state`` is the state before a step, too.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    initial_state: Tensor | None
    cu_seqlens: Bounds | None = None
    reverse: bool = False


TOKENS = ("u", "delta", "B", "C", "z")
"""Those with a time axis."""
PARAMETERS = ("A", "D", "delta_bias", "initial_state")
"""Those that enter the sums as they are."""

SCAN: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "selective_scan",
    Inputs,
    Implementation("triton", "selective_scan.triton:selective_scan", "selective_scan.spec:triton_unsupported_reason"),
    Implementation(
        "mamba-ssm", "selective_scan.mamba_ssm:selective_scan", "selective_scan.mamba_ssm:unsupported_reason"
    ),
    Implementation("cpu", "selective_scan.cpu:selective_scan", "selective_scan.cpu:unsupported_reason"),
    Implementation("reference", "selective_scan.reference:selective_scan"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "selective_scan_step",
    Inputs,
    Implementation("cpu", "selective_scan.cpu:selective_scan_step", "selective_scan.cpu:step_unsupported_reason"),
    Implementation("reference", "selective_scan.reference:selective_scan_step"),
)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return unsupported_reason(inputs, activation="u", parameters=PARAMETERS)
