"""A recurrence with a matrix state as a PyTorch operator: buffers, gradients, shapes for the compiler, steps in C++.

Kernels of the extension take the tokens, the bounds, the scale and the initial state; then the outputs, the final
states, and a tensor like the outputs that the backward pass reads.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import composed_gradients, differentiate_again
from .._core.operator.inputs import differentiable, fields, gradients_by_name, save_inputs_and_last, saved_inputs
from .._core.operator.operators import Operator
from .._core.steps import overwritten, state_to_overwrite
from ..dplr_delta_rule.spec import Inputs as LowRankInputs
from .spec import Inputs as AttentionInputs

Inputs = AttentionInputs | LowRankInputs


def recurrence(
    name: str,
    kind: Any,
    composed: Callable[[Any], tuple[Tensor, Tensor]],
    forward: Callable[..., tuple[Tensor, Tensor, Tensor]],
    backward: Callable[..., list[Tensor | None]],
    allocate: Callable[..., tuple[Tensor, Tensor, Tensor]],
    devices: str = "cpu",
) -> Callable[[Any, bool], tuple[Tensor, Tensor, Tensor]]:
    """The operator ``seqconv::name`` and its gradient, itself differentiable.

    Args:
        name: of the operator.
        kind: class of the inputs.
        composed: the same in PyTorch's operations, for gradients of gradients.
        forward: from the inputs and whether a gradient will be asked for to outputs, final states, what is saved.
        backward: from the inputs, what was saved, and the gradients of outputs and final states (or ``None``) to the
            gradients of the differentiable inputs, one slice per head of the states.
        allocate: tensors like those that ``forward`` returns.
        devices: the device types that both serve.

    Returns:
        The operator, called as ``forward`` is.
    """

    def run(inputs: Any, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
        return forward(inputs, learning)

    def run_backward(inputs: Any, saved: Tensor, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
        return _over_sharers(backward(inputs, saved, do, dfinal), inputs)

    def differentiate(ctx: Any, do: Tensor | None, dfinal: Tensor | None, _: Any) -> dict[str, Tensor | None]:
        inputs, (saved,) = saved_inputs(ctx, kind)
        do = torch.zeros_like(allocate(inputs, False)[0]) if do is None else do
        return gradients_by_name(inputs, adjoint(inputs, saved, do, dfinal))

    def differentiate_composed(inputs: Any, _: Tensor, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
        return composed_gradients(composed(inputs), [do, dfinal], differentiable(inputs).values())

    for function in (run, run_backward):
        function.__annotations__["inputs"] = kind  # the schema of the operator has the fields of this class
    operator = Operator(name, run, allocate, devices)
    results = len(fields(kind).differentiable)
    adjoint = Operator(f"{name}_backward", run_backward, _gradients, devices, results)
    operator.differentiate(save_inputs_and_last, differentiate)
    differentiate_again(adjoint, differentiate_composed)
    return operator


def native_recurrence(
    name: str, kind: Any, composed: Callable[[Any], tuple[Tensor, Tensor]]
) -> Callable[[Any, bool], tuple[Tensor, Tensor, Tensor]]:
    """:func:`recurrence` by the kernels ``<name>_forward`` and ``<name>_backward`` of the extension."""

    def forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
        kept, views = _views(inputs, inputs.initial_state, inputs.dtype)
        o, final_state, saved = _outputs(inputs, learning)
        written = map(native.view, (o, final_state, _present(saved)))
        getattr(native.library(), f"{name}_forward")(*views, *written, torch.get_num_threads())
        del kept
        return o, final_state, saved

    def backward(inputs: Inputs, saved: Tensor, do: Tensor, dfinal: Tensor | None) -> list[Tensor | None]:
        kept, views = _views(inputs, inputs.initial_state, inputs.dtype)
        gradients = buffers(inputs)
        read = (_present(saved), native.dense_rows(do), None if dfinal is None else dfinal.contiguous())
        written = map(native.view, (*read, *gradients))
        getattr(native.library(), f"{name}_backward")(*views, *written, torch.get_num_threads())
        del kept
        return gradients

    return recurrence(name, kind, composed, forward, backward, _outputs)


def step_in_place(name: str, token: Inputs) -> tuple[Tensor, Tensor]:
    """A scan of one token whose final state is written over its initial one; the output has no length.

    Args:
        name: of the kernel.
        token: the inputs, of length 1, with as many heads of values as of states.
    """
    state = state_to_overwrite(token.initial_state, token.dtype)
    v = token.v
    o = v.new_empty(v.shape, dtype=state.dtype if state.dtype == torch.float64 else v.dtype)
    _kept, views = _views(token, state, state.dtype)
    written = map(native.view, (o, state, None))
    getattr(native.library(), f"{name}_forward")(*views, *written, torch.get_num_threads())
    overwritten(state)
    return (o if o.dtype == v.dtype else o.to(v.dtype))[:, 0], state


def _present(saved: Tensor) -> Tensor | None:
    """What was saved; ``None`` for the empty tensor of one axis in its place."""
    return saved if saved.dim() > 1 else None


def outputs(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Buffers for the outputs and the final states."""
    (batch, length, _, d_v), heads, dtype = inputs.v.shape, inputs.heads, inputs.dtype
    o = inputs.v.new_empty(batch, length, heads, d_v, dtype=dtype if dtype == torch.float64 else inputs.v.dtype)
    return o, o.new_empty(inputs.segments, heads, inputs.k.shape[3], d_v, dtype=dtype)


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and one for what the backward pass reads."""
    o, state = outputs(inputs)
    return o, state, state.new_empty(o.shape if learning and inputs.saves else 0)


def _views(inputs: Inputs, state: Tensor | None, dtype: torch.dtype) -> tuple[list[Tensor | None], list[Any]]:
    """What the extension is told of the inputs, and the tensors that have to live until it returns."""
    kept = [None if t is None else native.dense_rows(t) for t in inputs.tokens]
    kept.append(native.bounds_on_cpu(inputs.cu_seqlens))
    kept.append(None if state is None else native.dense(state, dtype))
    *tokens, state_view = map(native.view, kept)
    return kept, [*tokens, inputs.scale, state_view]


def buffers(inputs: Inputs) -> list[Tensor | None]:
    """For the gradients of the tensors, in the dtype of the sums, one slice per head of the states."""
    (batch, length, _, d_v), dtype, heads = inputs.v.shape, inputs.dtype, inputs.heads
    tokens = [None if t is None else t.new_empty(batch, length, heads, t.shape[3], dtype=dtype) for t in inputs.tokens]
    return [*tokens, inputs.k.new_empty(inputs.segments, heads, inputs.k.shape[3], d_v, dtype=dtype)]


def _over_sharers(gradients: list[Tensor | None], inputs: Any) -> tuple[Tensor, ...]:
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


def _gradients(inputs: Any, *_: Any) -> tuple[Tensor, ...]:
    return _over_sharers(buffers(inputs), inputs)
