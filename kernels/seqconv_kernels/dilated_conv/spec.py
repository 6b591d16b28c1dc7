"""The inputs of dilated convolutions in series and their implementations, fastest first."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.triton.support import unsupported_reason

ACTIVATIONS = ("relu", "silu", "tanh")
"""Those that keep zeros zero, so that padding stays zero on every level."""


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.dilated_conv`.

    Attributes:
        history: those of the levels one after another along time.
        return_history: the history after the inputs is wanted too, in the same form.
    """

    x: Tensor
    weight: Tensor
    dilations: Sequence[int]
    activation: str | None
    history: Tensor | None
    return_history: bool


class StepInputs(NamedTuple):
    """What an implementation of a step receives; shapes as in :func:`.api.dilated_conv_step`."""

    x: Tensor
    weight: Tensor
    dilations: Sequence[int]
    activation: str | None
    rings: Sequence[Tensor]
    position: Tensor


CONV: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "dilated_conv",
    Inputs,
    Implementation("triton", "dilated_conv.triton:dilated_conv", "dilated_conv.spec:triton_unsupported_reason"),
    Implementation("cpu", "dilated_conv.cpu:dilated_conv", "_core.native:unsupported_reason"),
    Implementation("reference", "dilated_conv.reference:dilated_conv"),
)
STEP: Op[StepInputs, tuple[Tensor, tuple[Tensor, ...]]] = Op(
    "dilated_conv_step", StepInputs, Implementation("reference", "dilated_conv.reference:dilated_conv_step")
)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return unsupported_reason(inputs, activation="x")


def reaches(inputs: Inputs) -> list[int]:
    """Rows of the history of each level."""
    return [(inputs.weight.shape[2] - 1) * d for d in inputs.dilations]


def histories(inputs: Inputs) -> Sequence[Tensor | None]:
    """The history of each level."""
    past = inputs.history
    return [None] * len(inputs.dilations) if past is None else past.split(reaches(inputs), dim=1)
