"""Recurrences with a matrix state in C++ as a PyTorch operator: forward, backward, shapes for the compiler.

Tokens have any floating dtype and are contiguous in the last axis, (batch, length, heads, width); states, sums and
gradients are float32 or float64. Packed segments are read where they lie. Tensors with fewer
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

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import composed_gradients, differentiate_again
from .._core.operator.inputs import differentiable, gradients_by_name, needs_gradient, save_inputs, saved_inputs
from .._core.operator.operators import Operator
from .._core.steps import overwritten, state_to_overwrite
from ..delta_rule import chunked as delta_rule
from ..delta_rule.spec import Inputs as DeltaInputs
from ..gated_linear_attention import chunked as attention
from ..gated_linear_attention.spec import Inputs as AttentionInputs
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

    It is a scan of one token whose initial state is its final one. q and k may have fewer heads.
    """
    q, k, v, log_decay, beta, scale, state, _ = inputs
    state = state_to_overwrite(state, inputs.dtype)
    log_decay, beta = (
        None if x is None else x[:, None] if x.dim() == 3 else x[:, None, :, None] for x in (log_decay, beta)
    )
    tokens = Inputs(q[:, None], k[:, None], v[:, None], log_decay, beta, scale, state, None)
    o = v.new_empty(v.shape, dtype=state.dtype if state.dtype == torch.float64 else v.dtype)
    _, views = _views(tokens, state.dtype)
    written = map(native.view, (o[:, None], state, None))
    native.library().linear_attention_forward(*views, *written, torch.get_num_threads())
    overwritten(state)
    return o if o.dtype == v.dtype else o.to(v.dtype), state


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the output, the final state, and the errors of the delta rule."""
    (batch, length, _, d_v), heads = inputs.v.shape, inputs.heads
    dtype, keeps = inputs.dtype, learning and inputs.beta is not None
    o = inputs.v.new_empty(batch, length, heads, d_v, dtype=dtype if dtype == torch.float64 else inputs.v.dtype)
    state = o.new_empty(inputs.segments, heads, inputs.k.shape[3], d_v, dtype=dtype)
    return o, state, state.new_empty(o.shape if keeps else 0)


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
    o, final_state, error = _outputs(inputs, learning)
    written = (native.view(t) for t in (o, final_state, error if error.dim() == 4 else None))
    native.library().linear_attention_forward(*views, *written, torch.get_num_threads())
    del kept
    return o, final_state, error


def _buffers(inputs: Inputs) -> list[Tensor | None]:
    """For the gradients of the tensors, in the dtype of the sums, one slice per head of the states."""
    (batch, length, _, d_v), dtype, heads = inputs.v.shape, inputs.dtype, inputs.heads
    tokens = [None if t is None else t.new_empty(batch, length, heads, t.shape[3], dtype=dtype) for t in inputs.tokens]
    return [*tokens, inputs.k.new_empty(inputs.segments, heads, inputs.k.shape[3], d_v, dtype=dtype)]


def over_sharers(gradients: list[Tensor | None], inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Gradients shaped like the tensors: summed over the heads that share one; empty for an absent tensor."""
    shaped, given = [], next(g for g in gradients if g is not None)
    for gradient, (name, tensor) in zip(gradients, differentiable(inputs).items(), strict=True):
        if gradient is None or tensor is None:
            shaped.append(given.new_empty(0))
        elif gradient.shape == tensor.shape:
            shaped.append(gradient)
        else:
            axis = 1 if name == "initial_state" else 2
            shaped.append(gradient.unflatten(axis, (tensor.shape[axis], -1)).sum(axis + 1))
    return tuple(shaped)


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, ...]:
    return over_sharers(_buffers(inputs), inputs)


def _backward(inputs: Inputs, error: Tensor, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    kept, views = _views(inputs, inputs.dtype)
    gradients = _buffers(inputs)
    read = (error if error.dim() == 4 else None, native.dense_rows(do), None if dfinal is None else dfinal.contiguous())
    native.library().linear_attention_backward(*views, *map(native.view, (*read, *gradients)), torch.get_num_threads())
    del kept
    return over_sharers(gradients, inputs)


def _setup_context(ctx: Any, arguments: tuple[Inputs, bool], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    save_inputs(ctx, arguments[0], output[2])


def _differentiate(ctx: Any, do: Tensor | None, dfinal: Tensor | None, _: Any) -> dict[str, Tensor | None]:
    inputs, (error,) = saved_inputs(ctx, Inputs)
    do = torch.zeros_like(_outputs(inputs, False)[0]) if do is None else do
    return gradients_by_name(inputs, _BACKWARD(inputs, error, do, dfinal))


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


def _composed_gradients(inputs: Inputs, _: Tensor, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    return composed_gradients(_composed(inputs), [do, dfinal], differentiable(inputs).values())


_OPERATOR = Operator("linear_attention", _forward, _outputs)
_BACKWARD = Operator("linear_attention_backward", _backward, _gradients, results=6)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
