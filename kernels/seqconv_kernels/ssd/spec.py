"""The inputs of the state-space dual scan and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds
from .._linear_attention import unsupported_reason


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.ssd`, a step without the length.

    ``initial_state`` is the state before a step, too.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool
    dt_limit: tuple[float, ...] | None
    chunk_size: int | None
    initial_state: Tensor | None
    cu_seqlens: Bounds | None = None


SCAN: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "ssd",
    Inputs,
    Implementation("triton", "ssd.triton:ssd", "ssd.spec:triton_unsupported_reason"),
    Implementation("mamba-ssm", "ssd.mamba_ssm:ssd", "ssd.mamba_ssm:unsupported_reason"),
    Implementation("cpu", "ssd.cpu:ssd", "_core.native:unsupported_reason"),
    Implementation("chunked", "ssd.chunked:ssd"),
    Implementation("reference", "ssd.reference:ssd"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "ssd_step",
    Inputs,
    Implementation("cpu", "ssd.cpu:ssd_step", "_core.steps:in_place_unsupported_reason"),
    Implementation("reference", "ssd.reference:ssd_step"),
)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return unsupported_reason(inputs, key="B", activation="x")
