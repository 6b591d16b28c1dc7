"""Calls of :mod:`seqconv_kernels.delta_rule` for the tests over all ops."""

from functools import partial

from call_case import Case, gates, normal, packed, packed_inputs, token, with_state
from torch import Tensor

from seqconv_kernels import delta_rule, delta_rule_step


def inputs(
    batch: int, length: int, segments: int | None = None, *, decay_width: tuple[int, ...] = (3,)
) -> dict[str, Tensor]:
    tokens = (batch, length, 2)
    return {
        "q": normal(*tokens, 3), "k": normal(*tokens, 3).flip(1), "v": normal(*tokens, 2),
        "log_decay": gates(*tokens, *decay_width), "initial_state": normal(segments or batch, 2, 3, 2),
        "beta": normal(*tokens).sigmoid(),
    }  # fmt: skip


CASES = {
    "delta_rule": Case(with_state(delta_rule), inputs),
    "delta_rule, packed": Case(packed(delta_rule), packed_inputs(partial(inputs, decay_width=()))),
}
STEPS = {"delta_rule_step": Case(delta_rule_step, token(inputs, ("q", "k", "v", "log_decay", "beta")))}
