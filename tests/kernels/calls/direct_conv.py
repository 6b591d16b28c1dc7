"""Calls of :mod:`seqconv_kernels.direct_conv` for the tests over all ops."""

from typing import Any

from call_case import Case, normal
from torch import Tensor

from seqconv_kernels import direct_conv_step


def inputs(batch: int, _: int) -> dict[str, Tensor]:
    ring = normal(batch, 6, 3)
    return {"u": normal(batch, 3), "taps": normal(5, 3), "past": ring, "sums": ring.flip(1)}


def step(past: Tensor, sums: Tensor, **rest: Any) -> tuple[Tensor, ...]:
    """On copies: the step writes into both."""
    past, sums = past.clone(), sums.clone()
    return direct_conv_step(**rest, past=past, sums=sums, row=2, count=4), past, sums


STEPS = {"direct_conv_step": Case(step, inputs, free=("taps",))}
