"""The inputs of the recurrent cells and their implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core import native
from .._core.dispatch import Implementation, Op
from .._core.inputs import Bounds

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
    Implementation("cpu", "rnn.cpu:rnn", "rnn.spec:cpu_unsupported_reason"),
    Implementation("reference", "rnn.reference:rnn"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op("rnn_step", Inputs, Implementation("reference", "rnn.reference:rnn_step"))


def cpu_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the native kernels do not support the inputs, or ``None``."""
    return native.unsupported_reason(inputs, activation="x", parameters=PARAMETERS)
