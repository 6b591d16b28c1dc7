"""The generalised delta rule in C++: the recurrence itself, its state in the nearest cache.

Tokens have any floating dtype and are contiguous in the last axis, (batch, length, heads, width); states, sums and
gradients are float32 or float64. Packed segments are read in place. Tensors with fewer heads than the values are
never copied; their gradients arrive per head and are added here.

Backward, with ``G[t]`` the gradient of the state ``S[t]``, from the last token to the first::

    G[t]  = scale q[t] do[t]^T + diag(exp(g[t+1])) G[t+1] + a[t+1] du[t+1]^T
    du[t] = G[t]^T b[t]      dv[t] = G[t]^T k[t]      dq[t] = scale S[t] do[t]
    dk[t] = G[t] v[t]        db[t] = G[t] u[t]        da[t] = S[t-1] du[t]
    dg[t] = rows of (exp(g[t]) S[t-1]) . G[t]

where ``u[t] = S[t-1]^T a[t]`` is kept from the forward pass; the states are computed again.
"""

from typing import Any

from torch import Tensor

from .._core import native
from .._core.operator.inputs import needs_gradient
from .._core.steps import in_place_unsupported_reason
from .._linear_attention.operator import native_recurrence, step_in_place
from .chunked import dplr_delta_rule as in_chunks
from .spec import Inputs


def step_unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs of a step, or ``None``."""
    return in_place_unsupported_reason(inputs) or native.unsupported_reason(inputs)


def dplr_delta_rule(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Outputs (batch, length, heads, d_v) typed like ``v``, and final states (segments, heads, d_k, d_v)."""
    o, final_state, _ = _OPERATOR(inputs, needs_gradient(inputs))
    return o.to(inputs.v.dtype), final_state


def dplr_delta_rule_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token from the state, which is overwritten."""
    tokens = (None if x is None else x[:, None] for x in inputs.tokens)
    options: list[Any] = [*tokens, inputs.scale, inputs.initial_state]
    return step_in_place("dplr_delta_rule", Inputs(*options))


_OPERATOR = native_recurrence("dplr_delta_rule", Inputs, in_chunks)
