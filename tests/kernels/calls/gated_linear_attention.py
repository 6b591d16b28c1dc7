"""Calls of :mod:`seqconv_kernels.gated_linear_attention` for the tests over all ops."""

from functools import partial

from call_case import Case, gates, normal, packed, packed_inputs, token, whole, with_state
from torch import Tensor

from seqconv_kernels import gated_linear_attention, gated_linear_attention_step


def inputs(
    batch: int, length: int, segments: int | None = None, *, decay_width: tuple[int, ...] = (3,)
) -> dict[str, Tensor]:
    tokens = (batch, length, 2)
    return {
        "q": normal(*tokens, 3), "k": normal(*tokens, 3).flip(1), "v": normal(*tokens, 2),
        "log_decay": gates(*tokens, *decay_width), "initial_state": normal(segments or batch, 2, 3, 2),
    }  # fmt: skip


def bare_inputs(batch: int, length: int) -> dict[str, Tensor]:
    return {k: v for k, v in inputs(batch, length).items() if k in "qkv"}


def bonus_inputs(batch: int, length: int, segments: int | None = None) -> dict[str, Tensor]:
    return inputs(batch, length, segments) | {"bonus": normal(2, 3)}


TOKENS = ("q", "k", "v", "log_decay")
CASES = {
    "gated_linear_attention": Case(with_state(gated_linear_attention), inputs),
    "gated_linear_attention, scalar": Case(with_state(gated_linear_attention), partial(inputs, decay_width=())),
    "gated_linear_attention, bare": Case(whole(gated_linear_attention), bare_inputs),
    "gated_linear_attention, packed": Case(packed(gated_linear_attention), packed_inputs(inputs)),
    "gated_linear_attention, bonus": Case(with_state(gated_linear_attention), bonus_inputs, free=("bonus",)),
    "gated_linear_attention, bonus, packed": Case(packed(gated_linear_attention), packed_inputs(bonus_inputs)),
}
STEPS = {
    "gated_linear_attention_step": Case(gated_linear_attention_step, token(inputs, TOKENS)),
    "gated_linear_attention_step, bonus": Case(gated_linear_attention_step, token(bonus_inputs, TOKENS)),
}
