"""Causal depthwise convolution with a few taps, as before the scan of Mamba.

Equation, with K = width: ``y[t, c] = act(sum_{k<K} weight[c, k] x[t - (K-1) + k, c] + bias[c])``, so that
``weight[:, -1]`` multiplies the newest input (the order of ``torch.nn.Conv1d``); ``act`` is the identity or SiLU.
"""

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_cu_seqlens, check_floating, check_shape
from .._core.dispatch import Call, Implementation, Op, lazy, serves_all
from .._core.errors import argument_error, unknown_name
from .._core.triton_support import refuse as refuse_triton
from . import causal_conv1d_cuda as installed


def _reference() -> Any:
    from .reference import causal_conv1d

    return causal_conv1d


def _reference_step() -> Any:
    from .reference import causal_conv1d_step

    return causal_conv1d_step


def _cpu() -> Any:
    from .cpu import causal_conv1d

    return causal_conv1d


@lazy
def _refuse_cpu() -> Callable[[Call], str | None]:
    from .cpu import refuse

    return refuse


def _cpu_step() -> Any:
    from .cpu import causal_conv1d_step

    return causal_conv1d_step


@lazy
def _refuse_cpu_step() -> Callable[[Call], str | None]:
    from .cpu import refuse_step

    return refuse_step


def _triton() -> Any:
    from .triton import causal_conv1d

    return causal_conv1d


def _refuse_triton(call: Call) -> str | None:
    return refuse_triton(call, activation="x", parameters=("weight", "bias", "initial_state"))


def _causal_conv1d() -> Any:
    return installed.causal_conv1d


OP = Op(
    "causal_conv1d",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("causal-conv1d", _causal_conv1d, installed.refuse),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("reference", _reference, serves_all),
)
STEP = Op(
    "causal_conv1d_step",
    Implementation("cpu", _cpu_step, _refuse_cpu_step),
    Implementation("reference", _reference_step, serves_all),
)


def causal_conv1d(
    x: Float[Tensor, "batch length channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Float[Tensor, "segments width-1 channels"] | None = None,
    return_final_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
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
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``x``, or ``(y, final_state)``; sums are float32 at least.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; an unknown activation; bounds that do not increase
            to the length.
    """
    if x.dim() != 3 or x.shape[1] == 0:
        raise argument_error(
            "causal_conv1d", f"x of shape {tuple(x.shape)}", "(batch, length >= 1, channels)", "add the axes"
        )
    if cu_seqlens is not None:
        check_cu_seqlens("causal_conv1d", cu_seqlens, x)
    segments = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    tensors = {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state}
    _check("causal_conv1d", tensors, activation, segments)
    call = Call(tensors | {"cu_seqlens": cu_seqlens}, {"activation": activation})
    run = OP.choose(implementation, call)
    y: Tensor = run(x, weight, bias, activation, initial_state, cu_seqlens)
    if not return_final_state:
        return y
    from .reference import last_inputs

    return y, last_inputs(x, initial_state, cu_seqlens, weight.shape[1] - 1)


def causal_conv1d_step(
    x: Float[Tensor, "batch channels"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    *,
    state: Float[Tensor, "batch width-1 channels"],
    activation: Literal["silu"] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch width-1 channels"]]:
    """One time step of :func:`causal_conv1d`, behind the inputs in ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`causal_conv1d`.
    """
    if x.dim() != 2:
        raise argument_error(
            "causal_conv1d_step", f"x of shape {tuple(x.shape)}", "(batch, channels)", "take one time step"
        )
    tensors = {"x": x, "weight": weight, "bias": bias, "state": state}
    _check("causal_conv1d_step", tensors, activation, x.shape[0])
    run = STEP.choose(implementation, Call(tensors, {"activation": activation}))
    return run(x, weight, bias, activation, state)  # type: ignore[no-any-return]


def _check(operation: str, tensors: dict[str, Tensor | None], activation: str | None, segments: int) -> None:
    x, weight = tensors["x"], tensors["weight"]
    assert x is not None
    assert weight is not None
    if activation not in (None, "silu"):
        raise unknown_name(operation, "activation", str(activation), ["silu"])
    channels = x.shape[-1]
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] == 0:
        remedy = "squeeze the middle axis of a Conv1d weight"
        raise argument_error(operation, f"weight of shape {tuple(weight.shape)}", f"({channels}, width >= 1)", remedy)
    check_shape(operation, "bias", tensors["bias"], "channels", (channels,))
    for name in ("initial_state", "state"):
        wanted = (segments, weight.shape[1] - 1, channels)
        check_shape(operation, name, tensors.get(name), "batch or segments, width - 1, channels", wanted)
    check_floating(operation, tensors, x.device)
