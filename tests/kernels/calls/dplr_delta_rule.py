"""Calls of :mod:`seqconv_kernels.dplr_delta_rule` for the tests over all ops."""

from functools import partial

import torch.nn.functional as F
from call_case import Case, gates, normal, packed, packed_inputs, token, with_state
from torch import Tensor

from seqconv_kernels import dplr_delta_rule, dplr_delta_rule_step


def inputs(
    batch: int, length: int, segments: int | None = None, *, decay_width: tuple[int, ...] = (3,), writes: bool = True
) -> dict[str, Tensor]:
    tokens = (batch, length, 2)
    unit = F.normalize(normal(*tokens, 3).flip(1), dim=-1)
    given = {
        "q": normal(*tokens, 3), "k": 0.5 * unit, "v": normal(*tokens, 2), "a": -unit.roll(1, -1),
        "log_decay": gates(*tokens, *decay_width), "initial_state": normal(segments or batch, 2, 3, 2),
    }  # fmt: skip
    return given | ({"b": 0.5 * unit.roll(1, -1)} if writes else {})


TOKENS = ("q", "k", "v", "a", "b", "log_decay")
CASES = {
    "dplr_delta_rule": Case(with_state(dplr_delta_rule), inputs),
    "dplr_delta_rule, packed": Case(
        packed(dplr_delta_rule), packed_inputs(partial(inputs, decay_width=(), writes=False))
    ),
}
STEPS = {"dplr_delta_rule_step": Case(dplr_delta_rule_step, token(inputs, TOKENS))}
