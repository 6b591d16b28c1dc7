"""Calls of :mod:`seqconv_kernels.causal_conv1d` for the tests over all ops."""

from functools import partial

from call_case import Case, normal, packed, packed_inputs, token, with_state
from torch import Tensor

from seqconv_kernels import causal_conv1d, causal_conv1d_step


def inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    return {
        "x": normal(batch, length, 3), "weight": normal(3, 4), "bias": normal(3),
        "initial_state": normal(segments or batch, 3, 3),
    }  # fmt: skip


CASES = {
    "causal_conv1d": Case(with_state(causal_conv1d, activation="silu"), inputs),
    "causal_conv1d, in reverse": Case(with_state(causal_conv1d, reverse=True), inputs),
    "causal_conv1d, packed": Case(packed(causal_conv1d), packed_inputs(inputs)),
}
STEPS = {"causal_conv1d_step": Case(partial(causal_conv1d_step, activation="silu"), token(inputs, ("x",)))}
