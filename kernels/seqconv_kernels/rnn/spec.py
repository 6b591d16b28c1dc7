"""The inputs of the recurrent cells and their implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core import native
from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds
from .._core.triton import support as triton_support

ON_CHIP = 64
"""Channels of a head whose recurrent weights a program of the Triton kernels can keep on chip."""
PARAMETERS = ("recurrent_weight", "bias", "initial_state")


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.rnn`, a step without the length.

    ``initial_state`` is the state before a step, too.
    """

    x: Tensor
    recurrent_weight: Tensor
    bias: Tensor | None
    cell: str
    initial_state: Tensor | None
    starts: Bounds | None = None
    cu_seqlens: Bounds | None = None


RNN: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "rnn",
    Inputs,
    Implementation("triton", "rnn.triton:rnn", "rnn.spec:triton_unsupported_reason"),
    Implementation("cpu", "rnn.cpu:rnn", "rnn.spec:cpu_unsupported_reason"),
    Implementation("reference", "rnn.reference:rnn"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op("rnn_step", Inputs, Implementation("reference", "rnn.reference:rnn_step"))


def cpu_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the native kernels do not support the inputs, or ``None``."""
    return native.unsupported_reason(inputs, activation="x", parameters=PARAMETERS)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    reason: str | None = triton_support.unsupported_reason(inputs, activation="x", parameters=PARAMETERS)
    if reason is None and inputs.x.shape[-1] > ON_CHIP:
        return f"heads of {inputs.x.shape[-1]} channels, whose weights do not stay on chip beyond {ON_CHIP}"
    return reason
