"""Causal depthwise convolution with a few taps, as before the scan of Mamba.

Equation, with K = width: ``y[t, c] = act(sum_{k<K} weight[c, k] x[t - (K-1) + k, c] + bias[c])``, so that
``weight[:, -1]`` multiplies the newest input (the order of ``torch.nn.Conv1d``); ``act`` is the identity or SiLU.
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_shape
from .._core.errors import argument_error, unknown_name
from .._core.operator.inputs import given_tensors
from .._core.packing import count_rows
from .reference import final_state
from .spec import CONV, STEP, Inputs


def causal_conv1d(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Float[Tensor, "segments width-1 channels"] | None = None,
    return_final_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> Float[Tensor, "batch length channels"] | tuple[Tensor, Tensor]:
    """Convolve whole sequences; differentiable in every tensor.

    Args:
        x: input.
        weight: taps of each channel, the oldest first.
        bias: added before the activation.
        activation: ``"silu"`` or ``None``.
        initial_state: the inputs before ``x``, oldest first (``segments`` = batch, or that of each packed sequence);
            zero if not given.
        return_final_state: also return the last ``width - 1`` inputs, in the widest dtype of ``x`` and the initial
            state.
        cu_seqlens: bounds of sequences packed into a batch of one; no tap reaches over a bound.
        reverse: convolve the inputs that follow instead of those before, as if every sequence were reversed along the
            time, and the outputs again. The initial state is then the inputs after ``x``, the last of them first.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``x``, or ``(y, final_state)``; sums are float32 at least.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; an unknown activation; bounds that do not increase
            to the length.
    """
    inputs = Inputs(x, weight, bias, activation, initial_state, cu_seqlens, reverse)
    y = CONV(inputs, _check, implementation)
    return (y, final_state(inputs)) if return_final_state else y


def causal_conv1d_step(
    x: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    *,
    state: Float[Tensor, "batch width-1 channels"],
    activation: Literal["silu"] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch width-1 channels"]]:
    """One time step of :func:`causal_conv1d`, after the inputs in ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`causal_conv1d`.
    """
    return STEP(Inputs(x, weight, bias, activation, state), _check_step, implementation)


def _check(operation: str, inputs: Inputs) -> None:
    x = inputs.x
    if x.dim() != 3 or x.shape[1] == 0:
        got = f"x of shape {tuple(x.shape)}"
        raise argument_error(operation, got, "(batch, length >= 1, channels)", "add the axes")
    _check_shapes(operation, inputs, "initial_state", count_rows(operation, inputs.cu_seqlens, x))


def _check_step(operation: str, inputs: Inputs) -> None:
    x = inputs.x
    if x.dim() != 2:
        raise argument_error(operation, f"x of shape {tuple(x.shape)}", "(batch, channels)", "take one time step")
    _check_shapes(operation, inputs, "state", x.shape[0])


def _check_shapes(operation: str, inputs: Inputs, state: str, rows: int) -> None:
    x, weight, activation = inputs.x, inputs.weight, inputs.activation
    if activation not in (None, "silu"):
        raise unknown_name(operation, "activation", str(activation), ["silu"])
    channels = x.shape[-1]
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] == 0:
        remedy = "squeeze the middle axis of a Conv1d weight"
        raise argument_error(operation, f"weight of shape {tuple(weight.shape)}", f"({channels}, width >= 1)", remedy)
    check_shape(operation, "bias", inputs.bias, "channels", (channels,))
    wanted = (rows, weight.shape[1] - 1, channels)
    check_shape(operation, state, inputs.initial_state, "batch or segments, width - 1, channels", wanted)
    check_floating(operation, given_tensors(inputs._replace(cu_seqlens=None)), x.device)
