"""The inputs of the delta rule and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds
from .._linear_attention import unsupported_reason


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.delta_rule`, a step without the length.

    ``initial_state`` is the state before a step, too.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    log_decay: Tensor | None
    scale: float
    initial_state: Tensor | None
    cu_seqlens: Bounds | None = None


DELTA_RULE: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "delta_rule",
    Inputs,
    Implementation("triton", "delta_rule.triton:delta_rule", "delta_rule.spec:triton_unsupported_reason"),
    Implementation("cpu", "delta_rule.cpu:delta_rule", "_core.native:unsupported_reason"),
    Implementation("chunked", "delta_rule.chunked:delta_rule", "delta_rule.spec:beta_unsupported_reason"),
    Implementation("reference", "delta_rule.reference:delta_rule"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "delta_rule_step",
    Inputs,
    Implementation("cpu", "delta_rule.cpu:delta_rule_step", "delta_rule.cpu:step_unsupported_reason"),
    Implementation("reference", "delta_rule.reference:delta_rule_step"),
)


def beta_unsupported_reason(inputs: Inputs) -> str | None:
    """Why what takes a scalar ``beta`` does not support the inputs, or ``None``."""
    return None if inputs.beta.dim() < inputs.v.dim() else "it takes one beta per head, not per value channel"


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return beta_unsupported_reason(inputs) or unsupported_reason(inputs, key="k", activation="v", delta=True)
