"""The diagonal scan in C++ as a PyTorch operator: forward, backward, and what they look like to the compiler.

The operators take real tensors of three axes, complex numbers as pairs of neighbouring channels: lazy conjugates are
lost inside an operator that is called from a compiled graph.
"""

from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.dispatch import Call
from .._core.double_backward import differentiate_again
from .._core.operators import Operator, room
from .._core.packing import Segments
from .._core.precision import accumulation_dtype
from . import chunked


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    return native.refuse_call(call.given())


def linear_scan(a: Tensor, x: Tensor, state: Tensor | None, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The states along axis 1 in the dtype of ``x``, or that of the sums, and the final ones in that of the sums."""
    dtype = accumulation_dtype(a, x, state)
    stored = a.dtype if a.dtype == x.dtype and accumulation_dtype(a) == dtype else dtype
    first = None if state is None else _reals(state, dtype, 1)
    rows = (_reals(a, stored, 2), _reals(x, stored, 2))
    h, last = _OPERATOR(*rows, first, cu_seqlens, dtype.is_complex)
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
    return torch.view_as_complex(reals.unflatten(-1, (-1, 2)).contiguous()) if dtype.is_complex else reals


def _state(tokens: Tensor, bounds: Tensor | None) -> Tensor:
    """Room for the state of every segment."""
    segments = tokens.shape[0] if bounds is None else bounds.shape[0] - 1
    return tokens.new_empty(segments, tokens.shape[2], dtype=accumulation_dtype(tokens))


def _outputs(a: Tensor, x: Tensor, state: Tensor | None, bounds: Tensor | None, complex: bool) -> tuple[Tensor, Tensor]:
    """Room for the states, and for the final ones."""
    return room(x, x, x.dtype), _state(x, bounds)


def _gradients(a: Tensor, state: Tensor | None, bounds: Tensor | None, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of a, x and the initial state."""
    return room(a, a, a.dtype), room(a, a, a.dtype), _state(a, bounds)


def _dense(state: Tensor | None) -> Tensor | None:
    return None if state is None else state.contiguous()


def _on_cpu(bounds: Tensor | None) -> Tensor | None:
    return None if bounds is None else bounds.to("cpu", torch.int64).contiguous()


def _forward(a: Tensor, x: Tensor, state: Tensor | None, bounds: Tensor | None, complex: bool) -> tuple[Tensor, Tensor]:
    given = [native.dense_rows(a), native.dense_rows(x), _dense(state), _on_cpu(bounds)]
    results = _outputs(a, x, state, bounds, complex)
    native.library().linear_scan_forward(*map(native.view, (*given, *results)), complex, torch.get_num_threads())
    return results


def _backward(
    a: Tensor, state: Tensor | None, bounds: Tensor | None, complex: bool, h: Tensor, dh: Tensor, dfinal: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    given = [
        native.dense_rows(a),
        _dense(state),
        _on_cpu(bounds),
        h.contiguous(),
        native.dense_rows(dh),
        _dense(dfinal),
    ]
    gradients = _gradients(a, state, bounds)
    native.library().linear_scan_backward(*map(native.view, (*given, *gradients)), complex, torch.get_num_threads())
    return gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    a, _, state, bounds, ctx.complex = inputs
    ctx.save_for_backward(a, state, bounds, output[0])


def _differentiate(ctx: Any, dh: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
    a, state, bounds, h = ctx.saved_tensors
    dh = torch.zeros_like(h) if dh is None else dh
    da, dx, dstate = _BACKWARD(a, state, bounds, ctx.complex, h, dh, dfinal)
    return da, dx, None if state is None else dstate, None, None


def _composed_gradients(
    a: Tensor, state: Tensor | None, bounds: Tensor | None, complex: bool, h: Tensor, dh: Tensor, dfinal: Tensor | None
) -> tuple[Tensor, ...]:
    """By the scan in chunks, on inputs that are told from the states; a segment's last gradient has that of its end."""
    wide = accumulation_dtype(h)
    dtype = wide.to_complex() if complex else wide
    factors, states, gradient = a.to(wide), h.to(wide), dh.to(wide)
    if dfinal is not None:
        ends = torch.tensor([h.shape[1] - 1]) if bounds is None else bounds[1:] - 1
        gradient = gradient.index_add(1, ends, dfinal[:, None] if bounds is None else dfinal[None])
    if bounds is not None:
        segments = Segments(bounds, h.device)
        factors, states, gradient = segments.unpack(factors), segments.unpack(states), segments.unpack(gradient)
    first = states.new_zeros(states[:, 0].shape) if state is None else state
    before = torch.cat([_numbers(first, dtype)[:, None], _numbers(states, dtype)[:, :-1]], dim=1)
    x = _reals(_numbers(states, dtype) - _numbers(factors, dtype) * before, dtype, 2)
    # Views, so that the gradients of the factors and the state are not also those through x.
    scanned = (factors.view_as(factors), x.view_as(x), first.view_as(first).requires_grad_())
    again = _reals(chunked.linear_scan(*(_numbers(t, dtype) for t in scanned)), dtype, 2)
    da, dx, dstate = torch.autograd.grad(again, scanned, gradient, create_graph=True)
    da, dx = (t if bounds is None else segments.pack(t) for t in (da, dx))
    return da, dx, dstate


_OPERATOR = Operator(
    "linear_scan",
    "(Tensor a, Tensor x, Tensor? state, Tensor? cu_seqlens, bool complex) -> (Tensor, Tensor)",
    _forward,
    _outputs,
)
_BACKWARD = Operator(
    "linear_scan_backward",
    "(Tensor a, Tensor? state, Tensor? cu_seqlens, bool complex, Tensor h, Tensor dh, Tensor? dfinal)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _gradients,
)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
