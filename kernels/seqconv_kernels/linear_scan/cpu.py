"""The diagonal scan in C++ as a PyTorch operator: forward, backward, and what they look like to the compiler.

The operators take real tensors of three axes, complex numbers as pairs of neighbouring channels: lazy conjugates are
lost inside an operator that is called from a compiled graph. Backward: the same scan from the last step to the first,
``dx[t] = dh[t] + conj(a[t+1]) dx[t+1]`` and ``da[t] = dx[t] conj(h[t-1])``.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import native
from .._core.complex import view_output_as_complex
from .._core.operator.double_backward import differentiate_again
from .._core.operator.inputs import Bounds, gradients_by_name, save_inputs, saved_inputs
from .._core.operator.operators import Operator, empty_like
from .._core.packing import Segments, segment_count
from .._core.precision import accumulation_dtype
from . import chunked
from .spec import Inputs


class Reals(NamedTuple):
    """The inputs as the operator takes them: real, (batch, length, channels), complex numbers as two channels."""

    a: Tensor
    x: Tensor
    state: Tensor | None
    cu_seqlens: Bounds | None
    complex: bool


def linear_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The states along axis 1 in the dtype of ``x``, or that of the sums, and the final ones in that of the sums."""
    a, x, state, cu_seqlens = inputs
    dtype = accumulation_dtype(a, x, state)
    stored = a.dtype if a.dtype == x.dtype and accumulation_dtype(a) == dtype else dtype
    first = None if state is None else _reals(state, dtype, 1)
    h, last = _OPERATOR(Reals(_reals(a, stored, 2), _reals(x, stored, 2), first, cu_seqlens, dtype.is_complex))
    if x.dim() == 3 and not dtype.is_complex:
        return h, last
    return _numbers(h, dtype).view(x.shape), _numbers(last, dtype).view(last.shape[0], *x.shape[2:])


def _reals(numbers: Tensor, dtype: torch.dtype, leading: int) -> Tensor:
    """The parts of all channels on one axis; what is so already stays as it is, for views take time as well."""
    numbers = numbers if numbers.dtype == dtype else numbers.to(dtype)
    if dtype.is_complex:
        return torch.view_as_real(numbers.resolve_conj()).flatten(leading)
    return numbers if numbers.dim() == leading + 1 else numbers.unsqueeze(-1).flatten(leading)


def _numbers(reals: Tensor, dtype: torch.dtype) -> Tensor:
    """The channels of which these are the parts, if ``dtype`` is complex."""
    return view_output_as_complex(reals.unflatten(-1, (-1, 2))) if dtype.is_complex else reals


def _outputs(inputs: Reals) -> tuple[Tensor, Tensor]:
    """Buffers for the states, and for the final ones."""
    return empty_like(inputs.x, inputs.x, inputs.x.dtype), _final_state(inputs.x, inputs.cu_seqlens)


def _gradients(inputs: Reals, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the gradients of a, x and the initial state."""
    a = inputs.a
    return empty_like(a, a, a.dtype), empty_like(a, a, a.dtype), _final_state(a, inputs.cu_seqlens)


def _final_state(tokens: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    segments = segment_count(cu_seqlens, tokens)
    return tokens.new_empty(segments, tokens.shape[2], dtype=accumulation_dtype(tokens))


def _dense(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.contiguous()


def _forward(inputs: Reals) -> tuple[Tensor, Tensor]:
    a, x, state, cu_seqlens, complex = inputs
    given = [native.dense_rows(a), native.dense_rows(x), _dense(state), native.bounds_on_cpu(cu_seqlens)]
    results = _outputs(inputs)
    native.library().linear_scan_forward(*map(native.view, (*given, *results)), complex, torch.get_num_threads())
    return results


def _backward(inputs: Reals, dh: Tensor, dfinal: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of inputs that hold the states in place of x."""
    a, h, state, cu_seqlens, complex = inputs
    given = [native.dense_rows(a), _dense(state), native.bounds_on_cpu(cu_seqlens), h.contiguous()]
    given += [native.dense_rows(dh), _dense(dfinal)]
    gradients = _gradients(inputs)
    native.library().linear_scan_backward(*map(native.view, (*given, *gradients)), complex, torch.get_num_threads())
    return gradients


def _setup_context(ctx: Any, arguments: tuple[Reals], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    # The states say all that the gradients need of x, so that x itself is not kept.
    save_inputs(ctx, arguments[0]._replace(x=output[0]))


def _differentiate(ctx: Any, dh: Tensor | None, dfinal: Tensor | None) -> dict[str, Tensor | None]:
    inputs, _ = saved_inputs(ctx, Reals)
    dh = torch.zeros_like(inputs.x) if dh is None else dh
    return gradients_by_name(inputs, _BACKWARD(inputs, dh, dfinal))


def _composed_gradients(inputs: Reals, dh: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    """By the scan in chunks, on ``x[t] = h[t] - a[t] h[t-1]``.

    The gradient of a final state is added to that of the last state of its segment.
    """
    a, h, state, cu_seqlens, complex = inputs
    wide = accumulation_dtype(h)
    dtype = wide.to_complex() if complex else wide
    factors, states, gradient = a.to(wide), h.to(wide), dh.to(wide)
    if dfinal is not None:
        last = torch.tensor([h.shape[1] - 1]) if cu_seqlens is None else cu_seqlens[1:] - 1
        gradient = gradient.index_add(1, last, dfinal[:, None] if cu_seqlens is None else dfinal[None])
    if cu_seqlens is not None:
        segments = Segments(cu_seqlens, h.device)
        factors, states, gradient = segments.unpack(factors), segments.unpack(states), segments.unpack(gradient)
    first = states.new_zeros(states[:, 0].shape) if state is None else state
    before = torch.cat([_numbers(first, dtype)[:, None], _numbers(states, dtype)[:, :-1]], dim=1)
    x = _reals(_numbers(states, dtype) - _numbers(factors, dtype) * before, dtype, 2)
    # Views, so that the gradients of the factors and the state are not also those through x.
    scanned = (factors.view_as(factors), x.view_as(x), first.view_as(first).requires_grad_())
    again = _reals(chunked.scan(*(_numbers(t, dtype) for t in scanned)), dtype, 2)
    da, dx, dstate = torch.autograd.grad(again, scanned, gradient, create_graph=True)
    da, dx = (t if cu_seqlens is None else segments.pack(t) for t in (da, dx))
    return da, dx, dstate


_OPERATOR = Operator("linear_scan", _forward, _outputs)
_BACKWARD = Operator("linear_scan_backward", _backward, _gradients)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
