"""The short causal convolution in C++ as a PyTorch operator: forward, backward, and their shapes for the compiler."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import native
from .._core.checks import may_be_overwritten
from .._core.dispatch import Call
from .._core.double_backward import composed_gradients, differentiate_again
from .._core.operators import Operator, room, typed_like
from . import reference


class Inputs(NamedTuple):
    """The arguments of an implementation, in order."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    activation: str | None
    initial_state: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the sums."""
        return torch.float64 if self.x.dtype == torch.float64 else torch.float32


_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, str? activation, Tensor? initial_state, Tensor? cu_seqlens"


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    tensors = call.given()
    sums = torch.float64 if tensors["x"].dtype == torch.float64 else torch.float32
    for name in ("weight", "bias", "initial_state", "state"):
        if name in tensors and torch.promote_types(tensors[name].dtype, sums) != sums:
            return f"{name} of dtype {tensors[name].dtype} is wider than the sums, {sums}"
    return native.refuse_call(tensors)


def refuse_step(call: Call) -> str | None:
    """Why this implementation cannot serve the call of a single step, or ``None``."""
    tensors = call.given()
    if not may_be_overwritten(tensors["state"], *tensors.values()):
        return "it writes the next state over the last one, which somebody may still need, or which is not contiguous"
    return refuse(call)


def causal_conv1d(*arguments: Any) -> Tensor:
    """The output."""
    y: Tensor = _OPERATOR(*arguments)
    return y


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step behind the inputs in ``state``, which is overwritten."""
    y = _convolved(Inputs(x[:, None], weight, bias, activation, state, None))[:, 0]
    if state.shape[1]:
        state.copy_(torch.cat([state[:, 1:], x[:, None]], dim=1))
    return y, state


def _gradients(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for the gradients of x, weight, bias and the initial state."""
    x, (channels, width), sums = inputs.x, inputs.weight.shape, inputs.dtype
    segments = x.shape[0] if inputs.cu_seqlens is None else inputs.cu_seqlens.shape[0] - 1
    return (
        room(x, x, x.dtype),
        room(x, inputs.weight, sums),
        room(x, inputs.bias, sums),
        x.new_empty(segments, width - 1, channels, dtype=sums),
    )


def _prepare(inputs: Inputs) -> list[Tensor | None]:
    """The inputs in the layouts of the extension."""

    def wide(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else native.dense(tensor, inputs.dtype)

    bounds = None if inputs.cu_seqlens is None else inputs.cu_seqlens.to("cpu", torch.int64).contiguous()
    x = native.dense_rows(inputs.x)
    return [x, wide(inputs.weight), wide(inputs.bias), wide(inputs.initial_state), bounds]


def _convolved(inputs: Inputs) -> Tensor:
    prepared, y = _prepare(inputs), room(inputs.x, inputs.x, inputs.x.dtype)
    native.library().causal_conv1d_forward(
        *map(native.view, prepared), inputs.activation == "silu", native.view(y), torch.get_num_threads()
    )
    return y


def _backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *given, dy = arguments
    inputs = Inputs(*given)
    prepared, dy = _prepare(inputs), native.dense_rows(dy)
    gradients = dx, dweight, dbias, dinitial = _gradients(inputs)
    native.library().causal_conv1d_backward(
        *map(native.view, prepared),
        inputs.activation == "silu",
        *map(native.view, (dy, dx, dweight, None if inputs.bias is None else dbias, dinitial)),
        torch.get_num_threads(),
    )
    return gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.activation, initial_state, cu_seqlens = inputs
    ctx.save_for_backward(x, weight, bias, initial_state, cu_seqlens)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial_state, cu_seqlens = ctx.saved_tensors
    arguments = (x, weight, bias, ctx.activation, initial_state, cu_seqlens)
    gradients = _BACKWARD(*arguments, dy)
    cast = typed_like((x, weight, bias, initial_state), gradients)
    return (*cast[:3], None, cast[3], None)


def _composed_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    *given, dy = arguments
    x, weight, bias, _, initial_state, _ = given
    return composed_gradients([reference.causal_conv1d(*given)], [dy], [x, weight, bias, initial_state])


_OPERATOR = Operator(
    "causal_conv1d",
    f"({_ARGUMENTS}) -> Tensor",
    lambda *a: _convolved(Inputs(*a)),
    lambda *a: a[0].new_empty(a[0].shape),
)
_BACKWARD = Operator(
    "causal_conv1d_backward",
    f"({_ARGUMENTS}, Tensor dy) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    lambda *a: _gradients(Inputs(*a[:-1])),
)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
