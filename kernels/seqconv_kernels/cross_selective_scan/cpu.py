"""The cross scan in C++ as a PyTorch operator: forward, backward, and what they look like to the compiler.

The kernels are those of :mod:`..selective_scan.cpu`, where the adjoint recurrence is written out. They read rows of
``u``, ``delta``, ``B`` and ``C`` at the places that an order gives and add up ``y``, and backwards ``du``, direction by
direction: nothing is gathered and no output of a single direction exists. A thread has a block of channels in all
directions, so that sums are added in one order whatever the number of threads.
"""

from typing import Any

import torch
from torch import Tensor

from .._core import native
from .._core.operator.double_backward import composed_gradients, differentiate_again
from .._core.operator.inputs import differentiable, gradients_by_name, needs_gradient, save_inputs, saved_inputs
from .._core.operator.operators import Operator
from ..selective_scan.cpu import CHANNELS_PADDED_TO, STEPS_PER_CHECKPOINT
from . import gathered
from .spec import PARAMETERS, Inputs


def unsupported_reason(inputs: Inputs) -> str | None:
    """Why this implementation does not support the inputs, or ``None``."""
    return native.unsupported_reason(inputs, activation="u", parameters=PARAMETERS)


def cross_selective_scan(inputs: Inputs) -> Tensor:
    """The sum of the outputs of all directions."""
    y: Tensor = _OPERATOR(inputs, needs_gradient(inputs))[0]
    return y


class _Views:
    """What the extension is told of the inputs, and the copies that have to live until it returns."""

    def __init__(self, inputs: Inputs) -> None:
        self.kept: list[Tensor] = []
        self.dtype = native.accumulator_dtype(inputs.u)
        u, delta = (self.rows(t) for t in (inputs.u, inputs.delta))
        A, D, bias = (self.parameter(t) for t in (inputs.A, inputs.D, inputs.delta_bias))
        B, C = (self._keep(t) for t in (inputs.B, inputs.C))
        self.inputs = (u, delta, A, B, C, D, bias, self._keep(inputs.orders.contiguous()))

    def parameter(self, tensor: Tensor | None) -> native.View:
        """``(directions, channels, ...)``, contiguous in the dtype of the sums, with one axis for both."""
        return () if tensor is None else self._keep(native.dense(tensor, self.dtype).flatten(0, 1))

    def rows(self, tensor: Tensor) -> native.View:
        """A tensor with dense channels."""
        return self._keep(native.dense_rows(tensor))

    def _keep(self, tensor: Tensor) -> native.View:
        self.kept.append(tensor)
        return native.view(tensor)


def _forward(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor]:
    views = _Views(inputs)
    y, checkpoints = inputs.u.new_empty(inputs.u.shape, dtype=views.dtype), _checkpoints(inputs, learning)
    native.library().cross_selective_scan_forward(
        *views.inputs, inputs.delta_softplus, native.view(y), native.view(checkpoints if learning else None),
        torch.get_num_threads(),
    )  # fmt: skip
    return y.to(inputs.u.dtype), checkpoints


def _outputs(inputs: Inputs, learning: bool) -> tuple[Tensor, Tensor]:
    """Buffers for the output and the checkpoints: (chunks, directions, channels, d_state)."""
    return inputs.u.new_empty(inputs.u.shape), _checkpoints(inputs, learning)


def _checkpoints(inputs: Inputs, learning: bool) -> Tensor:
    u, (directions, channels, d_state) = inputs.u, inputs.A.shape
    padded = -(-channels // CHANNELS_PADDED_TO) * CHANNELS_PADDED_TO
    count = u.shape[0] * -(-u.shape[1] // STEPS_PER_CHECKPOINT) * directions * padded * d_state
    return u.new_empty(count if learning else 0, dtype=native.accumulator_dtype(u))


def _backward(inputs: Inputs, checkpoints: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    views, u = _Views(inputs), inputs.u
    _, *others = gradients = _gradients(inputs)
    du = u.new_empty(u.shape, dtype=views.dtype)
    views_of_others = (
        () if tensor is None else native.view(gradient.flatten(0, 1) if name in PARAMETERS else gradient)
        for (name, tensor), gradient in zip(list(differentiable(inputs).items())[1:], others, strict=True)
    )
    native.library().cross_selective_scan_backward(
        *views.inputs, inputs.delta_softplus, native.view(checkpoints), views.rows(dy), native.view(du),
        *views_of_others, torch.get_num_threads(),
    )  # fmt: skip
    return (du.to(gradients[0].dtype), *others)


def _gradients(inputs: Inputs, *_: Any) -> tuple[Tensor, ...]:
    """Buffers for the gradients of the inputs, those of parameters in the dtype of the sums; empty for absent ones.

    That of ``delta`` lies in memory as ``delta`` does: its projection computes direction by direction.
    """
    u, sums = inputs.u, native.accumulator_dtype(inputs.u)

    def buffer(name: str, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return u.new_empty(0, dtype=sums)
        if name == "delta" and _is_dense_by_direction(tensor):
            return torch.empty_like(tensor)
        return u.new_empty(tensor.shape, dtype=sums if name in PARAMETERS else u.dtype)

    return tuple(buffer(name, tensor) for name, tensor in differentiable(inputs).items())


def _is_dense_by_direction(delta: Tensor) -> bool:
    return delta.movedim(2, 0).is_contiguous()


def _save(ctx: Any, arguments: tuple[Inputs, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    save_inputs(ctx, arguments[0], output[1])


def _differentiate(ctx: Any, dy: Tensor, _: Any) -> dict[str, Tensor | None]:
    inputs, (checkpoints,) = saved_inputs(ctx, Inputs)
    return gradients_by_name(inputs, _BACKWARD(inputs, checkpoints, dy))


def _composed_gradients(inputs: Inputs, _: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    return composed_gradients([gathered.cross_selective_scan(inputs)], [dy], differentiable(inputs).values())


_OPERATOR = Operator("cross_selective_scan", _forward, _outputs)
_BACKWARD = Operator("cross_selective_scan_backward", _backward, _gradients, results=7)
_OPERATOR.differentiate(_save, _differentiate)
differentiate_again(_BACKWARD, _composed_gradients)
