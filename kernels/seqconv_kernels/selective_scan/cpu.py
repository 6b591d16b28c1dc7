"""The selective scan in C++ as a PyTorch operator: forward, backward, and what they look like to the compiler.

The forward keeps the state at every 16th step; the backward recomputes what lies between. Work is cut by shape alone:
results do not depend on the number of threads.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import native
from .._core.checks import may_be_overwritten
from .._core.dispatch import Call
from .._core.double_backward import composed_gradients, differentiate_again
from .._core.operators import Operator, room, typed_like
from . import double_backward
from .reference import negative_time_step, time_step

STEPS_PER_CHECKPOINT = 16
CHANNELS_PADDED_TO = 16


class Inputs(NamedTuple):
    """The arguments of an implementation, in order."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    initial_state: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def state_dtype(self) -> torch.dtype:
        """The dtype of the state and of all sums."""
        return torch.float64 if self.u.dtype == torch.float64 else torch.float32

    @property
    def segments(self) -> int | torch.SymInt:
        """Rows of the state (a symbol while the compiler keeps shapes open)."""
        return self.u.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Those that have gradients, in order."""
        return (*self[:8], self.initial_state)


_ARGUMENTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, Tensor? initial_state, Tensor? cu_seqlens"
)


def refuse(call: Call) -> str | None:
    """Why this implementation cannot serve the call, or ``None``."""
    tensors = call.given()
    sums = torch.float64 if tensors["u"].dtype == torch.float64 else torch.float32
    for name in ("A", "D", "delta_bias", "initial_state", "state"):
        if name in tensors and torch.promote_types(tensors[name].dtype, sums) != sums:
            return f"{name} of dtype {tensors[name].dtype} is wider than the sums, {sums}"
    return native.refuse_call(tensors)


def refuse_step(call: Call) -> str | None:
    """Why this implementation cannot serve the call of a single step, or ``None``."""
    tensors = call.given()
    if not may_be_overwritten(tensors["state"], *tensors.values()):
        return "it writes the next state over the last one, which somebody may still need, or which is not contiguous"
    return refuse(call)


def selective_scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    tensors = (t for t in arguments if isinstance(t, Tensor))
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    y, final_state, _ = _OPERATOR(*arguments, learning)
    return y, final_state


def selective_scan_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """One step from ``state``, which is overwritten."""
    if not delta_softplus:
        time_step(delta, delta_bias, False, state.dtype, "selective_scan_step")  # before the state is written
    gate = None if z is None else z[:, None]
    tokens = (u[:, None], delta[:, None], A, B[:, None], C[:, None], D, gate, delta_bias)
    inputs, y = Inputs(*tokens, delta_softplus, state, None), u.new_empty(u.shape)
    views, kept = _Views(inputs), native.view(state)
    status = native.library().selective_scan_forward(
        *views.inputs, kept, (), delta_softplus, native.view(y[:, None]), kept, (), torch.get_num_threads()
    )
    torch.autograd.graph.increment_version(state)
    if status:
        raise negative_time_step("selective_scan_step")
    return y, state


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the output, the final state, and the checkpoints: (chunks, channels, d_state)."""
    u, (channels, d_state) = inputs.u, inputs.A.shape
    batch, length, _ = u.shape
    groups = inputs.B.shape[2] if inputs.B.dim() == 4 else 1
    packed = inputs.cu_seqlens is not None
    chunks = length // STEPS_PER_CHECKPOINT + inputs.segments if packed else -(-length // STEPS_PER_CHECKPOINT)
    padded = groups * (-(-(channels // groups) // CHANNELS_PADDED_TO) * CHANNELS_PADDED_TO)
    return (
        room(u, u, u.dtype),
        u.new_empty(inputs.segments, channels, d_state, dtype=inputs.state_dtype),
        u.new_empty(batch * chunks * padded * d_state if learning else 0, dtype=inputs.state_dtype),
    )


def _gradients(inputs: Inputs) -> tuple[Tensor, ...]:
    """Room for the gradients of u, delta, A, B, C, D, z, delta_bias and the initial state; empty for an absent one."""
    u, stored, sums = inputs.u, inputs.u.dtype, inputs.state_dtype
    dtypes = (stored, stored, sums, stored, stored, sums, stored, sums, sums)
    return tuple(room(u, t, dtype) for t, dtype in zip(inputs.tensors(), dtypes, strict=True))


class _Views:
    """What the extension is told of the inputs, and the copies that it needs kept alive meanwhile."""

    def __init__(self, inputs: Inputs) -> None:
        self.kept: list[Tensor] = []
        bounds = inputs.cu_seqlens
        self.bounds = self._keep(None if bounds is None else bounds.to("cpu", torch.int64).contiguous())
        u, delta, z = (
            self._keep(None if t is None else native.dense_rows(t)) for t in (inputs.u, inputs.delta, inputs.z)
        )
        B, C = native.view(inputs.B), native.view(inputs.C)
        A, D, bias = (self.parameter(inputs, t) for t in (inputs.A, inputs.D, inputs.delta_bias))
        self.inputs = (u, delta, A, B, C, D, z, bias)

    def parameter(self, inputs: Inputs, tensor: Tensor | None) -> native.View:
        """A contiguous tensor in the dtype of the sums."""
        return self._keep(None if tensor is None else native.dense(tensor, inputs.state_dtype))

    def _keep(self, tensor: Tensor | None) -> native.View:
        if tensor is not None:
            self.kept.append(tensor)
        return native.view(tensor)


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    inputs, learning = Inputs(*arguments[:-1]), arguments[-1]
    views = _Views(inputs)
    y, final_state, checkpoints = _outputs(inputs, learning)
    status = native.library().selective_scan_forward(
        *views.inputs,
        views.parameter(inputs, inputs.initial_state),
        views.bounds,
        inputs.delta_softplus,
        native.view(y),
        native.view(final_state),
        native.view(checkpoints if learning else None),
        torch.get_num_threads(),
    )
    if status:
        raise negative_time_step("selective_scan")
    return y, final_state, checkpoints


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, (checkpoints, dy, dfinal) = Inputs(*arguments[:-3]), arguments[-3:]
    views, dy = _Views(inputs), native.dense_rows(dy)
    gradients = _gradients(inputs)
    native.library().selective_scan_backward(
        *views.inputs,
        views.bounds,
        inputs.delta_softplus,
        native.view(checkpoints),
        native.view(dy),
        views.parameter(inputs, dfinal),
        *(native.view(None if t is None else g) for g, t in zip(gradients, inputs.tensors(), strict=True)),
        torch.get_num_threads(),
    )
    return gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    *arguments, _ = inputs
    ctx.delta_softplus = arguments.pop(8)
    ctx.save_for_backward(*arguments, output[2])


def _differentiate(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    *saved, checkpoints = ctx.saved_tensors
    saved.insert(8, ctx.delta_softplus)
    inputs = Inputs(*saved)
    dy = torch.zeros_like(inputs.u) if dy is None else dy
    gradients = _BACKWARD(*inputs, checkpoints, dy, dfinal)
    cast = typed_like(inputs.tensors(), gradients)
    return (*cast[:8], None, cast[8], None, None)


def _composed_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    *given, _, dy, dfinal = arguments
    inputs = Inputs(*given)
    return composed_gradients(double_backward.selective_scan(*given), [dy, dfinal], inputs.tensors())


_OPERATOR = Operator(
    "selective_scan",
    f"({_ARGUMENTS}, bool learning) -> (Tensor, Tensor, Tensor)",
    _forward,
    lambda *a: _outputs(Inputs(*a[:-1]), a[-1]),
)
_BACKWARD = Operator(
    "selective_scan_backward",
    f"({_ARGUMENTS}, Tensor checkpoints, Tensor dy, Tensor? dfinal) -> ({', '.join(['Tensor'] * 9)})",
    _backward,
    lambda *a: _gradients(Inputs(*a[:-3])),
)
_OPERATOR.differentiate(_setup_context, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
