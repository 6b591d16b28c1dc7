"""Calls of :mod:`seqconv_kernels.skinny_linear` for the tests over all ops."""

from call_case import Case, normal, whole
from torch import Tensor

from seqconv_kernels import skinny_linear
from seqconv_kernels.skinny_linear import quantize_rows


def inputs(batch: int, _: int) -> dict[str, Tensor]:
    return {"x": normal(batch, 4), "weight": normal(3, 4), "bias": normal(3)}


def int8_inputs(batch: int, length: int) -> dict[str, Tensor]:
    plain = inputs(batch, length)
    weight, scale = quantize_rows(plain["weight"], group_size=2)
    return plain | {"weight": weight, "scale": scale.double()}


STEPS = {
    "skinny_linear": Case(whole(skinny_linear), inputs, free=("x",)),
    "skinny_linear, int8": Case(whole(skinny_linear), int8_inputs, free=("x",)),
}
