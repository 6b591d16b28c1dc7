"""The selective scan in C++ as a PyTorch operator: forward, backward, and what they look like to the compiler.

The forward keeps the state at every 16th step; the backward recomputes those between. With ``g[t]`` the gradient of
``h[t]`` and ``dout = dy silu(z)``, it runs the adjoint recurrence from the last step to the first::

    g[t]      = C[t] dout[t] + exp(dt[t+1] A) g[t+1]
    dB[t]     = sum_d dt[t] u[t] g[t],     dC[t] = sum_d h[t] dout[t]
    du[t]     = D dout[t] + dt[t] sum_n B[t] g[t]
    ddt[t]    = sum_n (B[t] u[t] + A exp(dt[t] A) h[t-1]) g[t]
    dA        = sum_t dt[t] exp(dt[t] A) h[t-1] g[t]

Work is split by shape alone: results do not depend on the number of threads.

With ``reverse`` the kernels are shown the last step first, by a negative distance between steps: nothing is copied.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import composed_gradients, differentiate_again
from .._core.operator.inputs import (
    differentiable,
    gradients_by_name,
    needs_gradient,
    save_inputs_and_last,
    saved_inputs,
)
from .._core.operator.operators import Operator, empty_like
from .._core.packing import reversible, segment_count
from .._core.steps import in_place_unsupported_reason, overwritten, state_to_overwrite
from . import double_backward
from .spec import PARAMETERS, TOKENS, Inputs

STEPS_PER_CHECKPOINT = 16
CHANNELS_PADDED_TO = 16


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    return native.unsupported_reason(inputs, activation="u", parameters=PARAMETERS)


def step_unsupported_reason(inputs: Inputs) -> str | None:
    """The same for a single step."""
    return in_place_unsupported_reason(inputs) or unsupported_reason(inputs)


def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    if inputs.reverse and inputs.cu_seqlens is not None:  # the kernels read bounds that rise
        return _PACKED_IN_REVERSE(inputs)
    y, final_state, _ = _OPERATOR(inputs, needs_gradient(inputs))
    return y, final_state


_PACKED_IN_REVERSE = reversible(*TOKENS)(selective_scan)


def selective_scan_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One step from the state, which is overwritten: a scan of one token whose initial state is its final one."""
    u, delta, A, B, C, D, z, bias, softplus, state, *_ = inputs
    dtype, y = native.accumulator_dtype(u), u.new_empty(u.shape)
    state = state_to_overwrite(state, dtype)
    _tokens, (u_view, delta_view, B_view, C_view, z_view, y_view) = native.token_views(u, delta, B, C, z, y)
    _parameters, (A_view, D_view, bias_view, h) = native.parameter_views(dtype, A, D, bias, state)
    native.library().selective_scan_forward(
        u_view, delta_view, A_view, B_view, C_view, D_view, z_view, bias_view, h, (), softplus, y_view, h, (),
        torch.get_num_threads(),
    )  # fmt: skip
    overwritten(state)
    return y, state


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers for the output, the final state, and the checkpoints: (chunks, channels, d_state)."""
    u, (channels, d_state), dtype = inputs.u, inputs.A.shape, native.accumulator_dtype(inputs.u)
    batch, length, _ = u.shape
    segments = segment_count(inputs.cu_seqlens, u)
    groups = inputs.B.shape[2] if inputs.B.dim() == 4 else 1
    packed = inputs.cu_seqlens is not None
    chunks = length // STEPS_PER_CHECKPOINT + segments if packed else -(-length // STEPS_PER_CHECKPOINT)
    padded = groups * (-(-(channels // groups) // CHANNELS_PADDED_TO) * CHANNELS_PADDED_TO)
    return (
        empty_like(u, u, u.dtype),
        u.new_empty(segments, channels, d_state, dtype=dtype),
        u.new_empty(batch * chunks * padded * d_state if learning else 0, dtype=dtype),
    )


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, ...]:
    """Buffers for the gradients of the inputs, those of parameters in the dtype of the sums; empty for absent ones."""
    u, sums = inputs.u, native.accumulator_dtype(inputs.u)
    dtypes = {name: sums if name in PARAMETERS else u.dtype for name in Inputs._fields}
    return tuple(empty_like(u, tensor, dtypes[name]) for name, tensor in differentiable(inputs).items())


class _Views:
    """What the extension is told of the inputs, and the copies that have to live until it returns."""

    def __init__(self, inputs: Inputs) -> None:
        self.kept: list[Tensor] = []
        self.dtype, self.reverse = native.accumulator_dtype(inputs.u), inputs.reverse
        bounds = native.bounds_on_cpu(inputs.cu_seqlens)
        self.bounds = self._keep(bounds, native.view(bounds))
        u, delta, z = (self.rows(t) for t in (inputs.u, inputs.delta, inputs.z))
        A, D, bias = (self.parameter(t) for t in (inputs.A, inputs.D, inputs.delta_bias))
        B, C = (self.in_time(t) for t in (inputs.B, inputs.C))
        self.inputs = (u, delta, A, B, C, D, z, bias)

    def parameter(self, tensor: Tensor | None) -> native.View:
        """A contiguous tensor in the dtype of the sums."""
        tensor = None if tensor is None else native.dense(tensor, self.dtype)
        return self._keep(tensor, native.view(tensor))

    def rows(self, tensor: Tensor | None) -> native.View:
        """A tensor with a time axis and dense channels."""
        return self.in_time(None if tensor is None else native.dense_rows(tensor))

    def in_time(self, tensor: Tensor | None) -> native.View:
        """A tensor with a time axis, in the order of the scan."""
        return self._keep(tensor, native.view_in_time(tensor, self.reverse))

    def _keep(self, tensor: Tensor | None, view: native.View) -> native.View:
        if tensor is not None:
            self.kept.append(tensor)
        return view


def _forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor, Tensor]:
    views = _Views(inputs)
    y, final_state, checkpoints = _outputs(inputs, learning)
    native.library().selective_scan_forward(
        *views.inputs,
        views.parameter(inputs.initial_state),
        views.bounds,
        inputs.delta_softplus,
        views.in_time(y),
        native.view(final_state),
        native.view(checkpoints if learning else None),
        torch.get_num_threads(),
    )
    return y, final_state, checkpoints


def _backward(inputs: Inputs, checkpoints: Tensor, dy: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    views, gradients = _Views(inputs), _gradients(inputs)
    native.library().selective_scan_backward(
        *views.inputs,
        views.bounds,
        inputs.delta_softplus,
        native.view(checkpoints),
        views.rows(dy),
        views.parameter(dfinal),
        *_gradient_views(views, inputs, gradients),
        torch.get_num_threads(),
    )
    if not inputs.reverse:
        return gradients
    # The sums over channels were written in the order of the scan.
    return tuple(
        g.flip(1) if name in ("B", "C") else g for name, g in zip(differentiable(inputs), gradients, strict=True)
    )


def _gradient_views(views: _Views, inputs: Inputs, gradients: tuple[Tensor, ...]) -> Iterator[native.View]:
    """What the extension is told of the gradients; those of activations are in the order of the scan."""
    for (name, tensor), gradient in zip(differentiable(inputs).items(), gradients, strict=True):
        given = None if tensor is None else gradient
        yield views.in_time(given) if name in ("u", "delta", "z") else native.view(given)


def _differentiate(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Any) -> dict[str, Tensor | None]:
    inputs, (checkpoints,) = saved_inputs(ctx, Inputs)
    dy = torch.zeros_like(inputs.u) if dy is None else dy
    return gradients_by_name(inputs, _BACKWARD(inputs, checkpoints, dy, dfinal))


def _composed_gradients(inputs: Inputs, _: Tensor, dy: Tensor, dfinal: Tensor | None) -> tuple[Tensor, ...]:
    return composed_gradients(double_backward.selective_scan(inputs), [dy, dfinal], differentiable(inputs).values())


_OPERATOR = Operator("selective_scan", _forward, _outputs)
_BACKWARD = Operator("selective_scan_backward", _backward, _gradients, results=9)
_OPERATOR.differentiate(save_inputs_and_last, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
