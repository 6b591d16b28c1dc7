"""Calls of :mod:`seqconv_kernels.linear_scan` for the tests over all ops."""

from call_case import Case, complex_normal, normal, packed, packed_inputs, token, whole, with_state
from torch import Tensor

from seqconv_kernels import linear_scan, linear_scan_step


def inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    tokens = (batch, length, 3)
    return {"a": normal(*tokens).sigmoid(), "x": normal(*tokens), "initial_state": normal(segments or batch, 3)}


def complex_inputs(batch: int, length: int) -> dict[str, Tensor]:
    return {"a": complex_normal(batch, length, 2) / 2, "x": complex_normal(batch, length, 2).flip(1)}


CASES = {
    "linear_scan": Case(with_state(linear_scan), inputs),
    "linear_scan, packed": Case(packed(linear_scan), packed_inputs(inputs)),
    "linear_scan, complex": Case(whole(linear_scan), complex_inputs),
}
STEPS = {"linear_scan_step": Case(linear_scan_step, token(inputs, ("a", "x")))}
