"""The inputs of a linear layer of few rows and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op

MAX_ROWS = 8
"""Rows of ``x`` up to which reading the weight takes longer than the arithmetic."""


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.skinny_linear`."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None


LINEAR: Op[Inputs, Tensor] = Op(
    "skinny_linear",
    Inputs,
    Implementation("cpu", "skinny_linear.cpu:skinny_linear", "skinny_linear.cpu:unsupported_reason"),
    Implementation("reference", "skinny_linear.reference:skinny_linear"),
)
