"""The inputs of the generalised delta rule and its implementations, fastest first."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds, differentiable
from .._core.precision import accumulation_dtype


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.dplr_delta_rule`, a step without the length.

    ``log_decay`` has its last axis always, of width d_k or 1.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor | None
    log_decay: Tensor | None
    scale: float
    initial_state: Tensor | None
    cu_seqlens: Bounds | None = None

    @property
    def tokens(self) -> tuple[Tensor | None, ...]:
        """The tensors with a length, in order."""
        return self.q, self.k, self.v, self.a, self.b, self.log_decay

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the states and of all sums."""
        return accumulation_dtype(*differentiable(self).values())


DPLR_DELTA_RULE: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "dplr_delta_rule",
    Inputs,
    Implementation("cpu", "dplr_delta_rule.cpu:dplr_delta_rule", "_core.native:unsupported_reason"),
    Implementation("chunked", "dplr_delta_rule.chunked:dplr_delta_rule"),
    Implementation("reference", "dplr_delta_rule.reference:dplr_delta_rule"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "dplr_delta_rule_step",
    Inputs,
    Implementation("cpu", "dplr_delta_rule.cpu:dplr_delta_rule_step", "dplr_delta_rule.cpu:step_unsupported_reason"),
    Implementation("reference", "dplr_delta_rule.reference:dplr_delta_rule_step"),
)
