"""The short causal convolution in C++ as a PyTorch operator: forward, backward, and their shapes for the compiler.

Backward, with ``g = dy act'(conv)``::

    dx[s, c]      = sum_k weight[c, k] g[s + K-1 - k, c]
    dweight[c, k] = sum_t g[t, c] x[t - (K-1) + k, c],     dbias[c] = sum_t g[t, c]

The initial state is the inputs at ``s < 0``, so its gradient is ``dx`` there. With ``reverse`` the kernels see the
last step first, by a negative distance between steps: nothing is copied.
"""

from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import differentiate_by
from .._core.operator.operators import Operator, empty_like
from .._core.packing import reversible, segment_count
from .._core.steps import in_place_unsupported_reason, overwritten, state_to_overwrite
from . import reference
from .spec import PARAMETERS, Inputs


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    return native.unsupported_reason(inputs, activation="x", parameters=PARAMETERS)


def step_unsupported_reason(inputs: Inputs) -> str | None:
    """The same for a single step."""
    return in_place_unsupported_reason(inputs) or unsupported_reason(inputs)


def causal_conv1d(inputs: Inputs) -> Tensor:
    """The output."""
    if inputs.reverse and inputs.cu_seqlens is not None:  # the kernels read bounds that rise
        return _PACKED_IN_REVERSE(inputs)
    y: Tensor = _OPERATOR(inputs)
    return y


_PACKED_IN_REVERSE = reversible("x")(causal_conv1d)


def causal_conv1d_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One step after the inputs in the state, which is overwritten."""
    x, y = inputs.x, inputs.x.new_empty(inputs.x.shape)
    state = state_to_overwrite(inputs.initial_state, x.dtype)
    _tokens, (x_view, y_view) = native.token_views(x, y)
    _parameters, views = native.parameter_views(native.accumulator_dtype(x), inputs.weight, inputs.bias, state)
    silu = inputs.activation == "silu"
    native.library().causal_conv1d_forward(x_view, *views, (), silu, y_view, torch.get_num_threads())
    if state.shape[1]:
        state.copy_(torch.cat([state[:, 1:], x[:, None]], dim=1))
        overwritten(state)
    return y, state


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Buffers for the gradients of x, weight, bias and the initial state."""
    x, (channels, width), sums = inputs.x, inputs.weight.shape, native.accumulator_dtype(inputs.x)
    return (
        empty_like(x, x, x.dtype),
        empty_like(x, inputs.weight, sums),
        empty_like(x, inputs.bias, sums),
        x.new_empty(segment_count(inputs.cu_seqlens, x), width - 1, channels, dtype=sums),
    )


def _prepare(inputs: Inputs) -> list[Tensor | None]:
    """The inputs in the layouts of the extension."""
    sums = native.accumulator_dtype(inputs.x)

    def wide(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else native.dense(tensor, sums)

    bounds = native.bounds_on_cpu(inputs.cu_seqlens)
    return [native.dense_rows(inputs.x), wide(inputs.weight), wide(inputs.bias), wide(inputs.initial_state), bounds]


def _views(inputs: Inputs, prepared: list[Tensor | None]) -> list[native.View]:
    """What the extension is told of prepared inputs: x in the order of the convolution."""
    x, *others = prepared
    return [native.view_in_time(x, inputs.reverse), *map(native.view, others)]


def _forward(inputs: Inputs) -> Tensor:
    prepared, y = _prepare(inputs), empty_like(inputs.x, inputs.x, inputs.x.dtype)
    native.library().causal_conv1d_forward(
        *_views(inputs, prepared), inputs.activation == "silu", native.view_in_time(y, inputs.reverse),
        torch.get_num_threads(),
    )  # fmt: skip
    return y


def _backward(inputs: Inputs, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prepared, dy = _prepare(inputs), native.dense_rows(dy)
    gradients = dx, dweight, dbias, dinitial = _gradients(inputs)
    native.library().causal_conv1d_backward(
        *_views(inputs, prepared),
        inputs.activation == "silu",
        *(native.view_in_time(t, inputs.reverse) for t in (dy, dx)),
        *map(native.view, (dweight, None if inputs.bias is None else dbias, dinitial)),
        torch.get_num_threads(),
    )
    return gradients


_OPERATOR = Operator("causal_conv1d", _forward, lambda inputs: inputs.x.new_empty(inputs.x.shape))
_BACKWARD = Operator("causal_conv1d_backward", _backward, _gradients)
differentiate_by(_OPERATOR, _BACKWARD, Inputs, reference.causal_conv1d)
