"""Dilated causal depthwise convolutions in series, one per level: O(length) at any reach.

Equation: ``a_0 = x``; ``a_{i+1}[t, c] = act(sum_{k<K} weight[i, c, k] a_i[t - k d_i, c])``, lag 0 first, the
activation between levels only; ``y`` is the last a. With ``d_i = K^i`` and no activation the impulse response is a
product over digits: ``h[sum_i k_i K^i] = prod_i weight[i, k_i]``, every lag below ``K^levels`` by exactly one path.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_shape
from .._core.errors import argument_error, unknown_name
from .._core.precision import accumulation_dtype
from . import reference
from .spec import ACTIVATIONS, CONV, STEP, Inputs, StepInputs, reaches


def dilated_conv(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "levels channels width"],
    dilations: Sequence[int],
    *,
    activation: str | None = None,
    history: Sequence[Tensor] | None = None,
    return_history: bool = False,
    implementation: str | None = None,
) -> Float[Tensor, "batch length channels"] | tuple[Tensor, tuple[Tensor, ...]]:
    """Convolve whole sequences through all levels; differentiable in every tensor.

    Args:
        x: input.
        weight: taps of every level and channel, lag 0 first.
        dilations: of each level, in tokens per tap.
        activation: ``"relu"``, ``"silu"``, ``"tanh"`` or ``None``, between levels.
        history: per level its inputs before these, ``(batch, (width - 1) dilation, channels)``, oldest first; zero
            if not given. It holds the inputs of the level, not ``x``.
        return_history: also return the history after these inputs.
        implementation: ``"triton"``, ``"cpu"``, ``"reference"``, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``x``, or ``(y, history)``; levels and history are float32 at least.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; dilations below 1; an unknown activation.
    """
    _check_history("dilated_conv", x, weight, dilations, history)
    past = None if history is None else torch.cat([t.to(accumulation_dtype(x, weight)) for t in history], dim=1)
    inputs = Inputs(x, weight, tuple(dilations), activation, past, return_history)
    y, after = CONV(inputs, _check, implementation)
    # Copies: a step writes into each of them.
    return (y, tuple(level.clone() for level in after.split(reaches(inputs), dim=1))) if return_history else y


def dilated_conv_step(
    x: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "levels channels width"],
    dilations: Sequence[int],
    *,
    rings: Sequence[Tensor],
    position: Int[Tensor, " batch"],
    activation: str | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], tuple[Tensor, ...]]:
    """One time step of :func:`dilated_conv` in O(levels · width) per channel, whatever the reach.

    Args:
        rings: per level a ring of its last ``(width - 1) dilation`` inputs; the oldest is at ``position`` modulo
            the size of the ring and is overwritten, in place where no gradient is needed. A history is a set of
            rings at position 0.
        position: steps since then, for each row.

    Raises:
        ValueError: as for :func:`dilated_conv`.
    """
    return STEP(
        StepInputs(x, weight, tuple(dilations), activation, tuple(rings), position), _check_step, implementation
    )


def unroll_rings(rings: Sequence[Tensor], position: Int[Tensor, " batch"]) -> tuple[Tensor, ...]:
    """The rings of :func:`dilated_conv_step` as a history of :func:`dilated_conv`: oldest input first."""
    return reference.unroll_rings(rings, position)


def _check(operation: str, inputs: Inputs) -> None:
    x = inputs.x
    if x.dim() != 3 or x.shape[1] == 0:
        got = f"x of shape {tuple(x.shape)}"
        raise argument_error(operation, got, "(batch, length >= 1, channels)", "add the axes")
    _check_weight(operation, x, inputs.weight, inputs.dilations, inputs.activation)


def _check_step(operation: str, inputs: StepInputs) -> None:
    x, weight, dilations = inputs.x, inputs.weight, inputs.dilations
    if x.dim() != 2:
        raise argument_error(operation, f"x of shape {tuple(x.shape)}", "(batch, channels)", "take one time step")
    _check_weight(operation, x, weight, dilations, inputs.activation)
    _check_history(operation, x, weight, dilations, inputs.rings)
    check_shape(operation, "position", inputs.position, "batch", (x.shape[0],))


def _check_weight(operation: str, x: Tensor, weight: Tensor, dilations: Sequence[int], activation: str | None) -> None:
    channels = x.shape[-1]
    if weight.dim() != 3 or weight.shape[1] != channels or weight.shape[2] == 0:
        got = f"weight of shape {tuple(weight.shape)}"
        raise argument_error(operation, got, f"(levels, {channels}, width >= 1)", "put levels first, then channels")
    if len(dilations) != weight.shape[0] or any(d < 1 for d in dilations):
        got = f"dilations={tuple(dilations)}"
        raise argument_error(operation, got, f"{weight.shape[0]} dilations of at least 1", "give one for each level")
    if activation is not None and activation not in ACTIVATIONS:
        raise unknown_name(operation, "activation", activation, ACTIVATIONS)
    check_floating(operation, {"x": x, "weight": weight}, x.device)


def _check_history(
    operation: str, x: Tensor, weight: Tensor, dilations: Sequence[int], history: Sequence[Tensor] | None
) -> None:
    if history is None:
        return
    if len(history) != len(dilations):
        got = f"{len(history)} histories"
        raise argument_error(operation, got, f"one for each of {len(dilations)} levels", "add them")
    for level, (past, dilation) in enumerate(zip(history, dilations, strict=True)):
        wanted = (x.shape[0], (weight.shape[2] - 1) * dilation, x.shape[-1])
        check_shape(operation, f"history[{level}]", past, "batch, (width - 1) dilation, channels", wanted)
        check_floating(operation, {f"history[{level}]": past}, x.device)
