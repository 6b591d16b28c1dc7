"""Calls of :mod:`seqconv_kernels.ssd` for the tests over all ops."""

from functools import partial

from call_case import Case, normal, packed, packed_inputs, token, with_state
from torch import Tensor

from seqconv_kernels import ssd, ssd_step


def inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    tokens = (batch, length, 4, 2)
    return {
        "x": normal(*tokens), "dt": normal(*tokens[:3]), "A": -normal(4).exp(), "B": normal(batch, length, 2, 3),
        "C": normal(batch, length, 2, 3).flip(1), "D": normal(4), "z": normal(*tokens).flip(1), "dt_bias": normal(4),
        "initial_state": normal(segments or batch, 4, 2, 3),
    }  # fmt: skip


scan, step = partial(ssd, dt_softplus=True), partial(ssd_step, dt_softplus=True)
CASES = {
    "ssd": Case(with_state(scan), inputs),
    "ssd, packed": Case(packed(scan), packed_inputs(inputs)),
}
STEPS = {"ssd_step": Case(step, token(inputs, ("x", "dt", "B", "C", "z")))}
