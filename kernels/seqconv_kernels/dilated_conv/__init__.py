"""Dilated causal depthwise convolutions in series, one per level: O(length) at any reach.

Equation: ``a_0 = x``; ``a_{i+1}[t, c] = act(sum_{k<K} weight[i, c, k] a_i[t - k d_i, c])``, lag 0 first, the
activation between levels only; ``y`` is the last a. With ``d_i = K^i`` and no activation the impulse response is a
product over digits: ``h[sum_i k_i K^i] = prod_i weight[i, k_i]``, every lag below ``K^levels`` by exactly one path.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from .._core import native
from .._core.checks import check_floating, check_shape
from .._core.dispatch import Call, Implementation, Op, serves_all
from .._core.errors import argument_error, unknown_name
from .._core.triton_support import refuse as refuse_triton


def _cpu() -> Any:
    from .cpu import dilated_conv

    return dilated_conv


def _refuse_cpu(call: Call) -> str | None:
    return native.refuse_call(call.given())


def _triton() -> Any:
    from .triton import dilated_conv

    return dilated_conv


def _refuse_triton(call: Call) -> str | None:
    return refuse_triton(call, activation="x")


def _reference() -> Any:
    from .reference import dilated_conv

    return dilated_conv


def _reference_step() -> Any:
    from .reference import dilated_conv_step

    return dilated_conv_step


OP = Op(
    "dilated_conv",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("reference", _reference, serves_all),
)
STEP = Op("dilated_conv_step", Implementation("reference", _reference_step, serves_all))
ACTIVATIONS = ("relu", "silu", "tanh")
"""Those that keep zeros zero, so that padding stays silent on every level."""


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
            if not given. It holds what the level heard, not ``x``.
        return_history: also return the history after these inputs.
        implementation: ``"triton"``, ``"cpu"``, ``"reference"``, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``x``, or ``(y, history)``; levels and history are float32 at least.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; dilations below 1; an unknown activation.
    """
    if x.dim() != 3 or x.shape[1] == 0:
        raise argument_error(
            "dilated_conv", f"x of shape {tuple(x.shape)}", "(batch, length >= 1, channels)", "add the axes"
        )
    _check("dilated_conv", x, weight, dilations, activation, history)
    run = OP.choose(implementation, Call({"x": x, "weight": weight}, {"dilations": dilations}))
    y, after = run(x, weight, dilations, activation, history, return_history)
    return (y, after) if return_history else y


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
        rings: per level a ring of its last ``(width - 1) dilation`` inputs; the oldest stands at ``position`` modulo
            the size of the ring and is overwritten, in place where no gradient is needed. A history is a set of
            rings at position 0.
        position: steps since then, for each row.

    Raises:
        ValueError: as for :func:`dilated_conv`.
    """
    if x.dim() != 2:
        raise argument_error(
            "dilated_conv_step", f"x of shape {tuple(x.shape)}", "(batch, channels)", "take one time step"
        )
    _check("dilated_conv_step", x, weight, dilations, activation, rings)
    check_shape("dilated_conv_step", "position", position, "batch", (x.shape[0],))
    run = STEP.choose(implementation, Call({"x": x, "weight": weight}, {"dilations": dilations}))
    return run(x, weight, dilations, activation, rings, position)  # type: ignore[no-any-return]


def unroll_rings(rings: Sequence[Tensor], position: Int[Tensor, " batch"]) -> tuple[Tensor, ...]:
    """The rings of :func:`dilated_conv_step` as a history of :func:`dilated_conv`: oldest input first."""
    from .reference import unroll_rings as run

    return run(rings, position)


def _check(
    operation: str,
    x: Tensor,
    weight: Tensor,
    dilations: Sequence[int],
    activation: str | None,
    history: Sequence[Tensor] | None,
) -> None:
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
    if history is None:
        return
    if len(history) != len(dilations):
        raise argument_error(
            operation, f"{len(history)} histories", f"one for each of {len(dilations)} levels", "add them"
        )
    for level, (past, dilation) in enumerate(zip(history, dilations, strict=True)):
        wanted = (x.shape[0], (weight.shape[2] - 1) * dilation, channels)
        check_shape(operation, f"history[{level}]", past, "batch, (width - 1) dilation, channels", wanted)
        check_floating(operation, {f"history[{level}]": past}, x.device)
