"""Selective state-space scan with a diagonal state matrix: the recurrence of Mamba (Gu and Dao, 2023).

Equation, per channel d and state n, with ``dt = softplus(delta + delta_bias)`` (or without the softplus)::

    h[t, d, n] = exp(dt[t, d] A[d, n]) h[t-1, d, n] + dt[t, d] B[t, g(d), n] u[t, d]
    y[t, d]    = (sum_n C[t, g(d), n] h[t, d, n] + D[d] u[t, d]) * silu(z[t, d])

``g(d)`` is the group of channel d: contiguous blocks of ``channels / groups`` share B and C.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_cu_seqlens, check_floating, check_same_dtype, check_shape, widest_under_autocast
from .._core.dispatch import Call, Implementation, Op, lazy, serves_all
from .._core.errors import argument_error
from .._core.triton_support import refuse as refuse_triton
from . import mamba_ssm as installed


def _reference() -> Any:
    from .reference import selective_scan

    return selective_scan


def _reference_step() -> Any:
    from .reference import selective_scan_step

    return selective_scan_step


def _cpu() -> Any:
    from .cpu import selective_scan

    return selective_scan


@lazy
def _refuse_cpu() -> Callable[[Call], str | None]:
    from .cpu import refuse

    return refuse


def _cpu_step() -> Any:
    from .cpu import selective_scan_step

    return selective_scan_step


@lazy
def _refuse_cpu_step() -> Callable[[Call], str | None]:
    from .cpu import refuse_step

    return refuse_step


def _triton() -> Any:
    from .triton import selective_scan

    return selective_scan


def _refuse_triton(call: Call) -> str | None:
    return refuse_triton(call, activation="u", parameters=("A", "D", "delta_bias", "initial_state"))


def _mamba_ssm() -> Any:
    return installed.selective_scan


OP = Op(
    "selective_scan",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("mamba-ssm", _mamba_ssm, installed.refuse),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("reference", _reference, serves_all),
)
STEP = Op(
    "selective_scan_step",
    Implementation("cpu", _cpu_step, _refuse_cpu_step),
    Implementation("reference", _reference_step, serves_all),
)


def selective_scan(
    u: Float[Tensor, "batch length channels"],
    delta: Float[Tensor, "batch length channels"],
    A: Float[Tensor, "channels d_state"],
    B: Float[Tensor, "batch length *groups d_state"],
    C: Float[Tensor, "batch length *groups d_state"],
    D: Float[Tensor, " channels"] | None = None,
    z: Float[Tensor, "batch length channels"] | None = None,
    *,
    delta_bias: Float[Tensor, " channels"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "segments channels d_state"] | None = None,
    return_final_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length channels"] | tuple[Tensor, Tensor]:
    """Scan whole sequences; differentiable in every tensor.

    Args:
        u: input.
        delta: time step, before bias and softplus.
        A: decay rates, usually negative.
        B: input weights, shared by all channels, or by those of a group.
        C: output weights, like ``B``.
        D: weight of the input in the output.
        z: gate; its SiLU multiplies the output.
        delta_bias: added to ``delta``.
        delta_softplus: pass ``delta`` through a softplus.
        initial_state: state before the first input (``segments`` = batch, or that of each packed sequence);
            zero if not given.
        return_final_state: also return the state after the last input.
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts anew at each.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``u``, or ``(y, final_state)``; the state is float32 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; bounds that do not increase to the length; a time
            step that is negative or NaN (values are read on CPU only, and not while compiling).
    """
    activations = widest_under_autocast({"u": u, "delta": delta, "B": B, "C": C, "z": z})
    parameters = {"A": A, "D": D, "delta_bias": delta_bias, "initial_state": initial_state}
    if u.dim() != 3 or u.shape[1] == 0:
        raise argument_error(
            "selective_scan", f"u of shape {tuple(u.shape)}", "(batch, length >= 1, channels)", "add the axes"
        )
    if cu_seqlens is not None:
        check_cu_seqlens("selective_scan", cu_seqlens, u)
    segments = u.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    _check("selective_scan", "batch, length", activations, parameters, segments)
    tensors = activations | parameters | {"cu_seqlens": cu_seqlens}
    run = OP.choose(implementation, Call(tensors, {"delta_softplus": delta_softplus}))
    y, final_state = run(*_ordered(activations, parameters, delta_softplus), initial_state, cu_seqlens)
    y = y.to(u.dtype)
    return (y, final_state) if return_final_state else y


def selective_scan_step(
    u: Float[Tensor, "batch channels"],
    delta: Float[Tensor, "batch channels"],
    A: Float[Tensor, "channels d_state"],
    B: Float[Tensor, "batch *groups d_state"],
    C: Float[Tensor, "batch *groups d_state"],
    D: Float[Tensor, " channels"] | None = None,
    z: Float[Tensor, "batch channels"] | None = None,
    *,
    state: Float[Tensor, "batch channels d_state"],
    delta_bias: Float[Tensor, " channels"] | None = None,
    delta_softplus: bool = False,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels d_state"]]:
    """One time step of :func:`selective_scan`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`selective_scan`.
    """
    activations = widest_under_autocast({"u": u, "delta": delta, "B": B, "C": C, "z": z})
    parameters = {"A": A, "D": D, "delta_bias": delta_bias, "state": state}
    if u.dim() != 2:
        raise argument_error(
            "selective_scan_step", f"u of shape {tuple(u.shape)}", "(batch, channels)", "take one time step"
        )
    _check("selective_scan_step", "batch", activations, parameters, u.shape[0])
    run = STEP.choose(implementation, Call(activations | parameters, {"delta_softplus": delta_softplus}))
    y, state = run(*_ordered(activations, parameters, delta_softplus), state)
    return y.to(u.dtype), state


def _ordered(activations: dict[str, Tensor | None], parameters: dict[str, Tensor | None], softplus: bool) -> list[Any]:
    """The arguments that both forms of the op share, in the order of the implementations."""
    tensors = activations | parameters
    return [*(tensors[name] for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")), softplus]


def _check(
    operation: str,
    leading: str,
    activations: dict[str, Tensor | None],
    parameters: dict[str, Tensor | None],
    segments: int,
) -> None:
    u, B, A = activations["u"], activations["B"], parameters["A"]
    assert u is not None
    assert B is not None
    assert A is not None
    channels = u.shape[-1]
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise argument_error(operation, f"A of shape {tuple(A.shape)}", f"({channels}, d_state)", "transpose A")
    d_state = A.shape[1]
    grouped = B.dim() == u.dim() + 1
    groups: tuple[int, ...] = (B.shape[-2],) if grouped else ()
    if grouped and (groups[0] == 0 or channels % groups[0] != 0):
        remedy = "take a divisor"
        raise argument_error(operation, f"B with {groups[0]} groups", f"groups that divide {channels} channels", remedy)
    weights = f"{leading}, {'groups, ' if grouped else ''}d_state"
    for name in ("delta", "z"):
        check_shape(operation, name, activations[name], f"{leading}, channels", tuple(u.shape))
    for name in ("B", "C"):
        check_shape(operation, name, activations[name], weights, (*u.shape[:-1], *groups, d_state))
    for name in ("D", "delta_bias"):
        check_shape(operation, name, parameters[name], "channels", (channels,))
    for name in ("initial_state", "state"):
        wanted = (segments, channels, d_state)
        check_shape(operation, name, parameters.get(name), "batch or segments, channels, d_state", wanted)
    check_floating(operation, activations | parameters, u.device)
    check_same_dtype(operation, activations)
