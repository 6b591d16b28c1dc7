"""The inputs of the step of diagonal state spaces and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.diagonal_step`."""

    u: Tensor
    offsets: Tensor
    residues: Tensor
    head: Tensor | None
    skip: Tensor | None
    hidden: Tensor
    past: Tensor | None


STEP: Op[Inputs, tuple[Tensor, Tensor, Tensor | None]] = Op(
    "diagonal_step",
    Inputs,
    Implementation("cpu", "diagonal_step.cpu:diagonal_step", "diagonal_step.cpu:unsupported_reason"),
    Implementation("reference", "diagonal_step.reference:diagonal_step"),
    remember=False,
)
