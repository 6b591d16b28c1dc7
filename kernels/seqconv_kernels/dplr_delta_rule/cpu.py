"""The generalised delta rule in C++ as a PyTorch operator: the recurrence, its state in the nearest cache.

Tokens have any floating dtype and are contiguous in the last axis, (batch, length, heads, width); states, sums and
gradients are float32 or float64. Packed segments are read where they lie. Tensors with fewer heads than the values are
never copied; their gradients arrive per head and are added here.

Backward, with ``G[t]`` the gradient of the state ``S[t]``, from the last token to the first::

    G[t]  = scale q[t] do[t]^T + diag(exp(g[t+1])) G[t+1] + a[t+1] du[t+1]^T
    du[t] = G[t]^T b[t]      dv[t] = G[t]^T k[t]      dq[t] = scale S[t] do[t]
    dk[t] = G[t] v[t]        db[t] = G[t] u[t]        da[t] = S[t-1] du[t]
    dg[t] = rows of (exp(g[t]) S[t-1]) . G[t]

where ``u[t] = S[t-1]^T a[t]`` is kept from the forward pass; the states are computed again.
"""

from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import composed_gradients, differentiate_again
from .._core.operator.inputs import differentiable, gradients_by_name, needs_gradient, save_inputs, saved_inputs
from .._core.operator.operators import Operator
from .._core.packing import segment_count
from .._core.steps import in_place_unsupported_reason, overwritten, state_to_overwrite
from .._linear_attention.cpu import over_sharers
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
    """One token from the state, which is overwritten: a scan of one token whose initial state is its final one."""
    state = state_to_overwrite(inputs.initial_state, inputs.dtype)
    q, k, v, a, b, log_decay = (None if x is None else x[:, None] for x in inputs.tokens)
    assert q is not None
    assert k is not None
    assert v is not None
    assert a is not None
    tokens = Inputs(q, k, v, a, b, log_decay, inputs.scale, state)
    o = v.new_empty(v.shape, dtype=state.dtype if state.dtype == torch.float64 else v.dtype)
    _, views = _views(tokens, state.dtype)
    native.library().dplr_delta_rule_forward(*views, *map(native.view, (o, state, None)), torch.get_num_threads())
    overwritten(state)
    return o[:, 0].to(inputs.v.dtype), state


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the output, the final state, and what was read of the states."""
    v, dtype = inputs.v, inputs.dtype
    o = v.new_empty(v.shape, dtype=dtype if dtype == torch.float64 else v.dtype)
    rows = segment_count(inputs.cu_seqlens, v)
    state = o.new_empty(rows, v.shape[2], inputs.k.shape[3], v.shape[3], dtype=dtype)
    return o, state, state.new_empty(o.shape if learning else 0)


def _views(inputs: Inputs, dtype: torch.dtype) -> tuple[list[Tensor | None], list[Any]]:
    """What the extension is told of the inputs, and the tensors that have to live until it returns."""
    kept = [None if t is None else native.dense_rows(t) for t in inputs.tokens]
    state = inputs.initial_state
    kept.append(native.bounds_on_cpu(inputs.cu_seqlens))
    kept.append(None if state is None else native.dense(state, dtype))
    *tokens, state_view = map(native.view, kept)
    return kept, [*tokens, inputs.scale, state_view]


def _forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    kept, views = _views(inputs, inputs.dtype)
    o, final_state, read = _outputs(inputs, learning)
    written = (native.view(t) for t in (o, final_state, read if learning else None))
    native.library().dplr_delta_rule_forward(*views, *written, torch.get_num_threads())
    del kept
    return o, final_state, read


def _buffers(inputs: Inputs) -> list[Tensor | None]:
    """For the gradients of the tensors, in the dtype of the sums, one slice per head of the states."""
    (batch, length, heads, d_v), dtype = inputs.v.shape, inputs.dtype
    tokens = [None if t is None else t.new_empty(batch, length, heads, t.shape[3], dtype=dtype) for t in inputs.tokens]
    rows = segment_count(inputs.cu_seqlens, inputs.v)
    return [*tokens, inputs.k.new_empty(rows, heads, inputs.k.shape[3], d_v, dtype=dtype)]


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, ...]:
    return over_sharers(_buffers(inputs), inputs)


def _backward(inputs: Inputs, read: Tensor, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    kept, views = _views(inputs, inputs.dtype)
    gradients = _buffers(inputs)
    given = (read, native.dense_rows(do), None if dfinal is None else dfinal.contiguous())
    native.library().dplr_delta_rule_backward(*views, *map(native.view, (*given, *gradients)), torch.get_num_threads())
    del kept
    return over_sharers(gradients, inputs)


def _setup_context(ctx: Any, arguments: tuple[Inputs, bool], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    save_inputs(ctx, arguments[0], output[2])


def _differentiate(ctx: Any, do: Tensor | None, dfinal: Tensor | None, _: Any) -> dict[str, Tensor | None]:
    inputs, (read,) = saved_inputs(ctx, Inputs)
    do = torch.zeros_like(_outputs(inputs, False)[0]) if do is None else do
    return gradients_by_name(inputs, _BACKWARD(inputs, read, do, dfinal))


def _composed_gradients(inputs: Inputs, _: Tensor, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    return composed_gradients(in_chunks(inputs), [do, dfinal], differentiable(inputs).values())


_OPERATOR = Operator("dplr_delta_rule", _forward, _outputs)
_BACKWARD = Operator("dplr_delta_rule_backward", _backward, _gradients, results=7)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
