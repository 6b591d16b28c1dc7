"""Calls of :mod:`seqconv_kernels.dilated_conv` for the tests over all ops."""

from typing import Any

import torch
from call_case import Case, normal, whole
from torch import Tensor

from seqconv_kernels import dilated_conv, dilated_conv_step


def inputs(batch: int, length: int) -> dict[str, Tensor]:
    return {"x": normal(batch, length, 3), "weight": normal(2, 3, 3)}


def step_inputs(batch: int, _: int) -> dict[str, Tensor]:
    rings = {f"ring{i}": normal(batch, 2 * dilation, 3) for i, dilation in enumerate((1, 3))}
    return {"x": normal(batch, 3), "weight": normal(2, 3, 3), "position": torch.arange(batch) + 2} | rings


def step(ring0: Tensor, ring1: Tensor, **rest: Any) -> tuple[Tensor, ...]:
    y, rings = dilated_conv_step(**rest, rings=(ring0, ring1), dilations=(1, 3), activation="silu")
    return y, *rings


CASES = {"dilated_conv": Case(whole(dilated_conv, dilations=(1, 3), activation="silu"), inputs, free=("x",))}
STEPS = {"dilated_conv_step": Case(step, step_inputs)}
