"""The inputs of the generalised delta rule and its implementations, fastest first."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds, differentiable
from .._core.packing import segment_count
from .._core.precision import accumulation_dtype
from .._linear_attention import unsupported_reason


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

    @property
    def heads(self) -> int | torch.SymInt:
        """Heads of the states, as many as of the values."""
        return self.v.shape[2]

    @property
    def segments(self) -> int | torch.SymInt:
        """Rows of the states."""
        return segment_count(self.cu_seqlens, self.v)

    @property
    def saves(self) -> bool:
        """Whether the backward pass reads more than the inputs: what was read of the states."""
        return True


DPLR_DELTA_RULE: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "dplr_delta_rule",
    Inputs,
    Implementation(
        "triton", "dplr_delta_rule.triton:dplr_delta_rule", "dplr_delta_rule.spec:triton_unsupported_reason"
    ),
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


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return unsupported_reason(inputs, key="k", activation="v", delta=True)
