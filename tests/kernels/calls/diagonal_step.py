"""Calls of :mod:`seqconv_kernels.diagonal_step` for the tests over all ops."""

from call_case import Case, complex_normal, normal
from torch import Tensor

from seqconv_kernels import diagonal_step


def inputs(batch: int, _: int) -> dict[str, Tensor]:
    return {
        "u": normal(batch, 3), "offsets": complex_normal(3, 4), "residues": complex_normal(3, 4).flip(0),
        "hidden": complex_normal(batch, 3, 4), "head": normal(3, 2), "past": normal(batch, 2, 3), "skip": normal(3),
    }  # fmt: skip


STEPS = {"diagonal_step": Case(diagonal_step, inputs)}
