"""Recurrences with a matrix state in C++ (:mod:`.operator` makes the operator).

Tokens have any floating dtype and are contiguous in the last axis, (batch, length, heads, width); states, sums and
gradients are float32 or float64. Packed segments are read in place. Tensors with fewer
heads than others are shared by neighbours, never copied; their gradients arrive per head and are added here.

Backward, with ``G[t]`` the gradient of the state ``S[t]``, from the last token to the first::

    G[t]   = scale q[t] do[t]^T + D[t+1]               dq[t] = scale S[t] do[t]
    du[t]  = G[t]^T k[t]                               dk[t] = G[t] u[t]          (u: what is written, v or beta e)
    D[t]   = diag(exp(g[t])) G'[t]                     dg[t] = rows of (exp(g[t]) S[t-1]) . G'[t]

with ``G' = G`` for plain linear attention (``dv = du``), and for the delta rule, whose error is ``e = v - S'^T k``,
``dv = beta du``, ``dbeta = e . du``, ``dk -= S' dv`` and ``G' = G - k dv^T``. The states are computed again; the delta
rule keeps its errors, a tensor like ``v``, and nothing else.
"""

from typing import Any

from torch import Tensor

from .._core.operator.inputs import needs_gradient
from ..delta_rule import chunked as delta_rule
from ..delta_rule.spec import Inputs as DeltaInputs
from ..gated_linear_attention import chunked as attention
from ..gated_linear_attention.spec import Inputs as AttentionInputs
from .operator import native_recurrence, step_in_place
from .spec import Inputs


def linear_attention(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Outputs (batch, length, heads, d_v) typed like ``v``, and final states (segments, heads, d_k, d_v)."""
    log_decay, beta = (
        None if t is None else t if t.dim() == 4 else t[..., None] for t in (inputs.log_decay, inputs.beta)
    )
    o, final_state, _ = _OPERATOR(inputs._replace(log_decay=log_decay, beta=beta), needs_gradient(inputs))
    return o.to(inputs.v.dtype), final_state


def linear_attention_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token from the state, which is overwritten: tensors without a length, all with as many heads as ``v``.

    q and k may have fewer heads.
    """
    q, k, v, log_decay, beta, scale, state, _ = inputs
    log_decay, beta = (
        None if x is None else x[:, None] if x.dim() == 3 else x[:, None, :, None] for x in (log_decay, beta)
    )
    token = Inputs(q[:, None], k[:, None], v[:, None], log_decay, beta, scale, state, None)
    return step_in_place("linear_attention", token)


def _composed(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The same in chunks of matrix products, every tensor repeated for all heads of the states."""

    def repeated(x: Tensor | None, axis: int = 2) -> Any:
        return None if x is None else x.repeat_interleave(inputs.heads // x.shape[axis], dim=axis)

    q, k, v, log_decay, beta = map(repeated, inputs.tokens)
    log_decay, beta = (x.squeeze(-1) if x is not None and x.shape[-1] == 1 else x for x in (log_decay, beta))
    scale, state, cu_seqlens = inputs.scale, repeated(inputs.initial_state, 1), inputs.cu_seqlens
    if beta is None:
        return attention.gated_linear_attention(AttentionInputs(q, k, v, log_decay, scale, state, cu_seqlens))
    return delta_rule.delta_rule(DeltaInputs(q, k, v, beta, log_decay, scale, state, cu_seqlens))


_OPERATOR = native_recurrence("linear_attention", Inputs, _composed)
