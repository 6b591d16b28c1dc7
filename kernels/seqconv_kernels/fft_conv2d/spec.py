"""The inputs of the two-dimensional long convolution and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.fft_conv2d`."""

    u: Tensor
    h: Tensor
    skip: Tensor | None


CONV: Op[Inputs, Tensor] = Op(
    "fft_conv2d",
    Inputs,
    Implementation("rows", "fft_conv2d.rows:fft_conv2d", "fft_conv2d.rows:unsupported_reason"),
    Implementation("reference", "fft_conv2d.reference:fft_conv2d"),
)


def taps_inside(inputs: Inputs) -> Tensor:
    """The taps that reach an input: no more rows and columns than the feature maps have."""
    return inputs.h[:, : inputs.u.shape[1], : inputs.u.shape[2]]
