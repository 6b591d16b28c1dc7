"""Recurrences with a matrix state in C++ as a PyTorch operator: forward, backward, shapes for the compiler.

Tokens have any floating dtype and are contiguous in the last axis, (batch, length, heads, width); states, sums and
gradients are float32 or float64. Packed segments are read where they lie. Tensors with fewer
heads than others are shared by neighbours, never copied; their gradients arrive per head and are added here. The
backward recomputes the states; the delta rule keeps its errors, a tensor like ``v``, and nothing else.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import native
from .._core.double_backward import composed_gradients, differentiate_again
from .._core.operators import Operator, typed_like
from .._core.packing import over_segments
from .._core.precision import accumulation_dtype
from ..delta_rule import chunked as chunked_delta_rule
from ..gated_linear_attention import chunked as chunked_attention


class Inputs(NamedTuple):
    """The arguments of the operator, in order."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_decay: Tensor | None
    beta: Tensor | None
    scale: float
    initial_state: Tensor | None
    cu_seqlens: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the states and of all sums."""
        return accumulation_dtype(*self.tensors())

    @property
    def segments(self) -> int | torch.SymInt:
        """Rows of the states."""
        return self.q.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    @property
    def heads(self) -> int | torch.SymInt:
        """Heads of the states: the most that any tensor has (a symbol while the compiler keeps shapes open)."""
        return max(self.q.shape[2], self.k.shape[2], self.v.shape[2])

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Those that have gradients, in order."""
        return (*self[:5], self.initial_state)


_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? log_decay, Tensor? beta, float scale, Tensor? initial_state, "
    "Tensor? cu_seqlens"
)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
    state: Tensor | None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs (batch, length, heads, d_v) typed like ``v``, and final states (segments, heads, d_k, d_v).

    Args:
        log_decay: (batch, length, heads[, d_k]).
        beta: (batch, length, heads[, d_v]); ``None`` for plain linear attention.
        state: before the first token, (segments, heads, d_k, d_v).
    """
    given = (q, k, v, log_decay, beta, state)
    log_decay, beta = (None if t is None else t if t.dim() == 4 else t[..., None] for t in (log_decay, beta))
    learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    o, final_state, _ = _OPERATOR(q, k, v, log_decay, beta, scale, state, cu_seqlens, learning)
    return o.to(v.dtype), final_state


def step_in_place(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, scale: float, state: Tensor
) -> Tensor:
    """One token from ``state``, which is overwritten: tensors without a length, as many heads as ``v`` in all others.

    The caller has made sure that the state :func:`~seqconv_kernels._core.checks.may_be_overwritten`.
    """

    def factor(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:, None] if x.dim() == 3 else x[:, None, :, None]

    inputs = Inputs(q[:, None], k[:, None], v[:, None], factor(log_decay), factor(beta), scale, state)
    o = v.new_empty(v.shape, dtype=state.dtype if state.dtype == torch.float64 else v.dtype)
    kept, views = _views(inputs)
    native.library().linear_attention_forward(
        *views, *map(native.view, (o[:, None], state, None)), torch.get_num_threads()
    )
    torch.autograd.graph.increment_version(state)
    del kept
    return o.to(v.dtype)


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the output, the final state, and the errors of the delta rule."""
    (batch, length, _, d_v), heads = inputs.v.shape, inputs.heads
    dtype, keeps = inputs.dtype, learning and inputs.beta is not None
    o = inputs.v.new_empty(batch, length, heads, d_v, dtype=dtype if dtype == torch.float64 else inputs.v.dtype)
    state = o.new_empty(inputs.segments, heads, inputs.k.shape[3], d_v, dtype=dtype)
    return o, state, state.new_empty(o.shape if keeps else 0)


def _views(inputs: Inputs) -> tuple[list[Tensor | None], list[Any]]:
    """What the extension is told of the inputs, and the tensors that it needs kept alive meanwhile."""
    kept = [None if t is None else native.dense_rows(t) for t in inputs[:5]]
    bounds, state = inputs.cu_seqlens, inputs.initial_state
    kept.append(None if bounds is None else bounds.to("cpu", torch.int64).contiguous())
    kept.append(None if state is None else state.to(inputs.dtype).contiguous())
    *tokens, state_view = map(native.view, kept)
    return kept, [*tokens, inputs.scale, state_view]


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    inputs, learning = Inputs(*arguments[:-1]), arguments[-1]
    kept, views = _views(inputs)
    o, final_state, error = _outputs(inputs, learning)
    written = (native.view(t) for t in (o, final_state, error if error.dim() == 4 else None))
    native.library().linear_attention_forward(*views, *written, torch.get_num_threads())
    del kept
    return o, final_state, error


def _gradients(inputs: Inputs) -> list[Tensor | None]:
    """Room for the gradients of :meth:`Inputs.tensors` in the dtype of the sums, one slice per head of the states."""
    (batch, length, _, d_v), dtype = inputs.v.shape, inputs.dtype
    sizes = [(batch, length, inputs.heads, -1 if t is None else t.shape[3]) for t in inputs[:5]]
    found = [None if t is None else t.new_empty(size, dtype=dtype) for t, size in zip(inputs[:5], sizes, strict=True)]
    return [*found, inputs.k.new_empty(inputs.segments, inputs.heads, inputs.k.shape[3], d_v, dtype=dtype)]


def _over_sharers(gradients: list[Tensor | None], inputs: Inputs) -> tuple[Tensor, ...]:
    """Gradients shaped like the tensors: summed over the heads that share one; empty for an absent tensor."""
    shaped = []
    for gradient, tensor in zip(gradients, inputs.tensors(), strict=True):
        if gradient is None or tensor is None:
            shaped.append(inputs.k.new_empty(0, dtype=inputs.dtype))
        elif gradient.shape == tensor.shape:
            shaped.append(gradient)
        else:
            axis = 1 if tensor is inputs.initial_state else 2
            shaped.append(gradient.unflatten(axis, (tensor.shape[axis], -1)).sum(axis + 1))
    return tuple(shaped)


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    *given, error, do, dfinal = arguments
    inputs = Inputs(*given)
    kept, views = _views(inputs)
    gradients = _gradients(inputs)
    read = (error if error.dim() == 4 else None, native.dense_rows(do), None if dfinal is None else dfinal.contiguous())
    native.library().linear_attention_backward(*views, *map(native.view, (*read, *gradients)), torch.get_num_threads())
    del kept
    return _over_sharers(gradients, inputs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    given = Inputs(*inputs[:-1])
    ctx.scale = given.scale
    ctx.save_for_backward(*given.tensors(), given.cu_seqlens, output[2])


def _differentiate(ctx: Any, do: Tensor | None, dfinal: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    q, k, v, log_decay, beta, state, cu_seqlens, error = ctx.saved_tensors
    inputs = Inputs(q, k, v, log_decay, beta, ctx.scale, state, cu_seqlens)
    do = torch.zeros_like(_outputs(inputs, False)[0]) if do is None else do
    found = _BACKWARD(*inputs, error, do, dfinal)
    kept = typed_like(inputs.tensors(), found)
    return (*kept[:5], None, kept[5], None, None)


def _composed(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The same in chunks of matrix products, every tensor repeated for all heads of the states."""

    def repeated(x: Tensor | None, axis: int = 2) -> Any:
        return None if x is None else x.repeat_interleave(inputs.heads // x.shape[axis], dim=axis)

    q, k, v, log_decay, beta = map(repeated, inputs[:5])
    log_decay, beta = (x.squeeze(-1) if x is not None and x.shape[-1] == 1 else x for x in (log_decay, beta))
    state = repeated(inputs.initial_state, 1)

    def attend(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
        if beta is None:
            return chunked_attention.gated_linear_attention(q, k, v, log_decay, inputs.scale, state)
        return chunked_delta_rule.delta_rule(q, k, v, beta, log_decay, inputs.scale, state)

    return over_segments(attend, inputs.cu_seqlens, q, k, v, log_decay, beta)


def _composed_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    *given, _, do, dfinal = arguments
    inputs = Inputs(*given)
    return composed_gradients(_composed(inputs), [do, dfinal], inputs.tensors())


_OPERATOR = Operator(
    "linear_attention",
    f"({_ARGUMENTS}, bool learning) -> (Tensor, Tensor, Tensor)",
    _forward,
    lambda *a: _outputs(Inputs(*a[:-1]), a[-1]),
)
_BACKWARD = Operator(
    "linear_attention_backward",
    f"({_ARGUMENTS}, Tensor error, Tensor do, Tensor? dfinal) -> ({', '.join(['Tensor'] * 6)})",
    _backward,
    lambda *a: _over_sharers(_gradients(Inputs(*a[:-3])), Inputs(*a[:-3])),
)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
