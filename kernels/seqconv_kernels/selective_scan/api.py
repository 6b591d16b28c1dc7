"""Selective state-space scan with a diagonal state matrix: the recurrence of Mamba (Gu and Dao, 2023).

Equation, per channel d and state n, with ``dt = softplus(delta + delta_bias)`` (or without the softplus)::

    h[t, d, n] = exp(dt[t, d] A[d, n]) h[t-1, d, n] + dt[t, d] B[t, g(d), n] u[t, d]
    y[t, d]    = (sum_n C[t, g(d), n] h[t, d, n] + D[d] u[t, d]) * silu(z[t, d])

``g(d)`` is the group of channel d: contiguous blocks of ``channels / groups`` share B and C.
"""

from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_same_dtype, check_shape, widest_under_autocast
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .._core.packing import count_rows, sum_over_time, with_state_and_decay
from .reference import state_dtype, time_step
from .spec import SCAN, STEP, Inputs


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
    return_total_decay: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    reverse: bool = False,
    implementation: str | None = None,
) -> Float[Tensor, "batch length channels"] | tuple[Tensor, ...]:
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
        return_total_decay: also return the product of all decays of each sequence, shaped like the state: a scan from
            another state S has the final state ``final_state + total_decay * S``, so that scans over parts of a
            sequence compose.
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts again at each.
        reverse: scan every sequence from its last input to its first, as if all were reversed along the time, and the
            outputs again. The initial state is then that before the last input, the final one that after the first.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``u``, or ``(y, final_state)``; the state is float32 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; bounds that do not increase to the length. Values
            raise nothing: a NaN reaches the channels of its own row from its step on, and a negative time step grows
            the state.
    """
    wide, delta, B, C, z = widest_under_autocast(u, delta, B, C, z)
    inputs = Inputs(wide, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, reverse)
    y, final_state = SCAN(inputs, _check, implementation)
    y = y if y.dtype == u.dtype else y.to(u.dtype)
    total = _total_decay(inputs) if return_total_decay else None
    return with_state_and_decay(y, final_state if return_final_state else None, total)


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
    wide, delta, B, C, z = widest_under_autocast(u, delta, B, C, z)
    inputs = Inputs(wide, delta, A, B, C, D, z, delta_bias, delta_softplus, state)
    y, state = STEP(inputs, _check_step, implementation)
    return y if y.dtype == u.dtype else y.to(u.dtype), state


def _total_decay(inputs: Inputs) -> Tensor:
    dt = time_step(inputs, state_dtype(inputs))
    return (sum_over_time(dt, inputs.cu_seqlens)[..., None] * inputs.A).exp()


def _check(operation: str, inputs: Inputs) -> None:
    u = inputs.u
    if u.dim() != 3 or u.shape[1] == 0:
        got = f"u of shape {tuple(u.shape)}"
        raise argument_error(operation, got, "(batch, length >= 1, channels)", "add the axes")
    _check_shapes(operation, inputs, "batch, length", "initial_state", count_rows(operation, inputs.cu_seqlens, u))


def _check_step(operation: str, inputs: Inputs) -> None:
    u = inputs.u
    if u.dim() != 2:
        raise argument_error(operation, f"u of shape {tuple(u.shape)}", "(batch, channels)", "take one time step")
    _check_shapes(operation, inputs, "batch", "state", u.shape[0])


def _check_shapes(operation: str, inputs: Inputs, leading: str, state: str, rows: int) -> None:
    u, A, B = inputs.u, inputs.A, inputs.B
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
    for name, tensor in (("delta", inputs.delta), ("z", inputs.z)):
        check_shape(operation, name, tensor, f"{leading}, channels", tuple(u.shape))
    for name, tensor in (("B", B), ("C", inputs.C)):
        check_shape(operation, name, tensor, weights, (*u.shape[:-1], *groups, d_state))
    for name, tensor in (("D", inputs.D), ("delta_bias", inputs.delta_bias)):
        check_shape(operation, name, tensor, "channels", (channels,))
    axes = "batch or segments, channels, d_state"
    check_shape(operation, state, inputs.initial_state, axes, (rows, channels, d_state))
    check_floating(operation, given_tensors(inputs._replace(cu_seqlens=None)), u.device)
    check_same_dtype(operation, {"u": u, "delta": inputs.delta, "B": B, "C": inputs.C, "z": inputs.z})
