"""The inputs of the short causal convolution and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds
from .._core.triton.support import unsupported_reason


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.causal_conv1d`, a step without the length.

    ``initial_state`` is the state before a step, too.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    activation: str | None
    initial_state: Tensor | None
    cu_seqlens: Bounds | None = None
    reverse: bool = False


PARAMETERS = ("weight", "bias", "initial_state")
"""Those that enter the sums as they are."""

CONV: Op[Inputs, Tensor] = Op(
    "causal_conv1d",
    Inputs,
    Implementation("triton", "causal_conv1d.triton:causal_conv1d", "causal_conv1d.spec:triton_unsupported_reason"),
    Implementation(
        "causal-conv1d",
        "causal_conv1d.causal_conv1d_cuda:causal_conv1d",
        "causal_conv1d.causal_conv1d_cuda:unsupported_reason",
    ),
    Implementation("cpu", "causal_conv1d.cpu:causal_conv1d", "causal_conv1d.cpu:unsupported_reason"),
    Implementation("reference", "causal_conv1d.reference:causal_conv1d"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "causal_conv1d_step",
    Inputs,
    Implementation("cpu", "causal_conv1d.cpu:causal_conv1d_step", "causal_conv1d.cpu:step_unsupported_reason"),
    Implementation("reference", "causal_conv1d.reference:causal_conv1d_step"),
)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return unsupported_reason(inputs, activation="x", parameters=PARAMETERS)
