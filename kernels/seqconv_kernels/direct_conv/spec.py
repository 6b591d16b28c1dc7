"""The inputs of the direct sums of an online convolution and their implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op


class StepInputs(NamedTuple):
    """What an implementation of a step receives; shapes as in :func:`.api.direct_conv_step`."""

    u: Tensor
    taps: Tensor
    past: Tensor
    sums: Tensor
    row: int
    lags: int


class TileInputs(NamedTuple):
    """What an implementation of a tile receives; shapes as in :func:`.api.direct_conv_tile`."""

    x: Tensor
    taps: Tensor
    sums: Tensor
    lag: int


STEP: Op[StepInputs, Tensor] = Op(
    "direct_conv_step",
    StepInputs,
    Implementation("cpu", "direct_conv.cpu:direct_conv_step", "direct_conv.cpu:unsupported_reason"),
    Implementation("reference", "direct_conv.reference:direct_conv_step"),
    remember=False,
)
TILE: Op[TileInputs, None] = Op(
    "direct_conv_tile",
    TileInputs,
    Implementation("cpu", "direct_conv.cpu:direct_conv_tile", "direct_conv.cpu:unsupported_reason"),
    Implementation("reference", "direct_conv.reference:direct_conv_tile"),
    remember=False,
)
