"""The diagonal scan in C++ as a PyTorch operator: forward, backward, and what they look like to the compiler.

The operators take real tensors of three axes, complex numbers as pairs of neighbouring channels: lazy conjugates are
lost inside an operator that is called from a compiled graph.
"""

from typing import Any

import torch
from torch import Tensor

from .. import native
from ..dispatch import Call
from ..second_order import differentiate_again
from . import chunked

_TAGS = (torch.Tag.pt2_compliant_tag,)
torch.library.define("seqconv::linear_scan", "(Tensor a, Tensor x, Tensor state, bool complex) -> Tensor", tags=_TAGS)
torch.library.define(
    "seqconv::linear_scan_backward",
    "(Tensor a, Tensor state, bool complex, Tensor h, Tensor dh) -> (Tensor, Tensor, Tensor)",
    tags=_TAGS,
)


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    return native.refuse_call(call.given())


def linear_scan(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """Scan along axis 1; all tensors of one dtype."""
    rows = (_reals(a, 2), _reals(x, 2), _reals(state, 1))
    h = torch.ops.seqconv.linear_scan(*rows, x.is_complex())
    return torch.view_as_complex(h.view(*x.shape, 2)) if x.is_complex() else h.view(x.shape)


def _reals(numbers: Tensor, leading: int) -> Tensor:
    """The parts of all channels on one axis."""
    parts = torch.view_as_real(numbers.resolve_conj()) if numbers.is_complex() else numbers.unsqueeze(-1)
    return parts.flatten(leading)


def _outputs(a: Tensor, x: Tensor, state: Tensor, complex: bool) -> Tensor:
    """Room for the states."""
    return x.new_empty(x.shape)


def _gradients(a: Tensor, state: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the gradients of a, x and the initial state."""
    return a.new_empty(a.shape), a.new_empty(a.shape), state.new_empty(state.shape)


@torch.library.impl("seqconv::linear_scan", "cpu")
def _forward(a: Tensor, x: Tensor, state: Tensor, complex: bool) -> Tensor:
    given = [native.dense_rows(a), native.dense_rows(x), state.contiguous()]
    h = _outputs(a, x, state, complex)
    native.library().linear_scan_forward(*map(native.view, (*given, h)), complex, torch.get_num_threads())
    return h


@torch.library.impl("seqconv::linear_scan_backward", "cpu")
def _backward(a: Tensor, state: Tensor, complex: bool, h: Tensor, dh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    given = [native.dense_rows(a), state.contiguous(), h.contiguous(), native.dense_rows(dh)]
    gradients = _gradients(a, state)
    native.library().linear_scan_backward(*map(native.view, (*given, *gradients)), complex, torch.get_num_threads())
    return gradients


torch.library.register_fake("seqconv::linear_scan")(_outputs)
torch.library.register_fake("seqconv::linear_scan_backward")(_gradients)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    a, _, state, ctx.complex = inputs
    ctx.save_for_backward(a, state, output)


def _differentiate(ctx: Any, dh: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    a, state, h = ctx.saved_tensors
    return *torch.ops.seqconv.linear_scan_backward(a, state, ctx.complex, h, dh), None


def _composed_gradients(a: Tensor, state: Tensor, complex: bool, h: Tensor, dh: Tensor) -> tuple[Tensor, ...]:
    def numbers(reals: Tensor) -> Tensor:
        return torch.view_as_complex(reals.unflatten(-1, (-1, 2)).contiguous()) if complex else reals

    states = numbers(h)
    x = states - numbers(a) * torch.cat([numbers(state)[:, None], states[:, :-1]], dim=1)
    # Views, so that the gradients of the factors and the state are not also those through x.
    scanned = (a.view_as(a), _reals(x, 2), state.view_as(state))
    again = _reals(chunked.linear_scan(*map(numbers, scanned)), 2)
    return torch.autograd.grad(again, scanned, dh, create_graph=True)


torch.library.register_autograd("seqconv::linear_scan", _differentiate, setup_context=_setup_context)
differentiate_again("seqconv::linear_scan_backward", _composed_gradients)
