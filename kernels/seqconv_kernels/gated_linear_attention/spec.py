"""The inputs of gated linear attention and its implementations, fastest first."""

from typing import NamedTuple

from torch import Tensor

from .._core.dispatch import Implementation, Op
from .._core.operator.inputs import Bounds
from .._linear_attention import unsupported_reason


class Inputs(NamedTuple):
    """What an implementation receives; shapes as in :func:`.api.gated_linear_attention`, a step without the length.

    ``initial_state`` is the state before a step, too. A ``log_decay`` of (kv_heads,) is constant.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    scale: float
    initial_state: Tensor | None
    cu_seqlens: Bounds | None = None


ATTENTION: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "gated_linear_attention",
    Inputs,
    Implementation(
        "triton",
        "gated_linear_attention.triton:gated_linear_attention",
        "gated_linear_attention.spec:triton_unsupported_reason",
    ),
    Implementation("cpu", "gated_linear_attention.cpu:gated_linear_attention", "_core.native:unsupported_reason"),
    Implementation("chunked", "gated_linear_attention.chunked:gated_linear_attention"),
    Implementation("reference", "gated_linear_attention.reference:gated_linear_attention"),
)
STEP: Op[Inputs, tuple[Tensor, Tensor]] = Op(
    "gated_linear_attention_step",
    Inputs,
    Implementation(
        "cpu",
        "gated_linear_attention.cpu:gated_linear_attention_step",
        "gated_linear_attention.cpu:step_unsupported_reason",
    ),
    Implementation("reference", "gated_linear_attention.reference:gated_linear_attention_step"),
)


def triton_unsupported_reason(inputs: Inputs) -> str | None:
    """Why the kernels in Triton do not support the inputs, or ``None``."""
    return unsupported_reason(inputs, key="k", activation="v")


def decay_per_token(inputs: Inputs) -> Tensor | None:
    """``log_decay`` with all axes of ``k`` but the last, or with all; a constant one as a view of stride 0."""
    log_decay = inputs.log_decay
    return log_decay if log_decay is None or log_decay.dim() > 1 else log_decay.expand(inputs.k.shape[:-1])
