"""Calls of :mod:`seqconv_kernels.selective_scan` for the tests over all ops."""

from functools import partial

from call_case import Case, normal, packed, packed_inputs, token, whole, with_state
from torch import Tensor

from seqconv_kernels import selective_scan, selective_scan_step


def inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    tokens, weights = (batch, length, 4), (batch, length, 2, 3)
    return {
        "u": normal(*tokens), "delta": normal(*tokens).add(0.1), "A": -normal(4, 3).exp(), "B": normal(*weights),
        "C": normal(*weights).flip(1), "D": normal(4), "z": normal(*tokens).flip(1), "delta_bias": normal(4),
        "initial_state": normal(segments or batch, 4, 3),
    }  # fmt: skip


def bare_inputs(batch: int, length: int) -> dict[str, Tensor]:
    weights = {name: normal(batch, length, 3) for name in "BC"}
    return {k: v for k, v in inputs(batch, length).items() if k in ("u", "delta", "A")} | weights


scan, step = partial(selective_scan, delta_softplus=True), partial(selective_scan_step, delta_softplus=True)
CASES = {
    "selective_scan": Case(with_state(scan), inputs),
    "selective_scan, packed": Case(packed(scan), packed_inputs(inputs)),
    "selective_scan, in reverse": Case(with_state(partial(scan, reverse=True)), inputs),
    "selective_scan, bare": Case(whole(scan), bare_inputs),
}
STEPS = {"selective_scan_step": Case(step, token(inputs, ("u", "delta", "B", "C", "z")))}
