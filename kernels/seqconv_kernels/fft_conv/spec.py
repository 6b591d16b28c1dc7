"""The inputs of the long convolution and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.triton.support import unsupported_reason


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.fft_conv`."""

    u: Tensor
    h: Tensor
    skip: Tensor | None
    pre_gate: Tensor | None
    post_gate: Tensor | None
    history: Tensor | None
    frequency_limit: float | None


PARAMETERS = ("h", "skip", "history")
"""Those that enter the sums as they are."""

CONV: Op[Inputs, Tensor] = Op(
    "fft_conv",
    Inputs,
    Implementation("triton", "fft_conv.triton:fft_conv", "fft_conv.spec:triton_unsupported_reason"),
    Implementation("cpu", "fft_conv.cpu:fft_conv", "fft_conv.cpu:unsupported_reason"),
    Implementation("reference", "fft_conv.reference:fft_conv"),
)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    if inputs.u.shape[1] == 0:
        return "u has no time steps"
    return unsupported_reason(inputs, activation="u", parameters=PARAMETERS)
