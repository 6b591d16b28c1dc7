"""State-space duality: the scan of Mamba-2, with one decay per head (Dao and Gu, 2024, *Transformers are SSMs*).

Equation, per head h of group g(h), with ``dt = clamp(softplus(dt + dt_bias), *dt_limit)`` (or without the softplus)
and a state ``S`` of (head_dim, d_state)::

    S[t] = exp(dt[t] A[h]) S[t-1] + dt[t] x[t] B[t, g]^T
    y[t] = (S[t] C[t, g] + D[h] x[t]) * silu(z[t])
"""

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from .._core.checks import check_floating, check_shape, check_shape_among
from .._core.errors import argument_error
from .._core.operator.inputs import given_tensors
from .._core.packing import count_rows, sum_over_time, with_state_and_decay
from .reference import time_step
from .spec import SCAN, STEP, Inputs


def ssd(
    x: Float[Tensor, "batch length heads head_dim"],
    dt: Float[Tensor, "batch length heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch length groups d_state"],
    C: Float[Tensor, "batch length groups d_state"],
    D: Float[Tensor, "heads *head_dim"] | None = None,
    z: Float[Tensor, "batch length heads head_dim"] | None = None,
    *,
    dt_bias: Float[Tensor, " heads"] | None = None,
    dt_softplus: bool = False,
    dt_limit: Sequence[float] | None = None,
    chunk_size: int | None = None,
    initial_state: Float[Tensor, "segments heads head_dim d_state"] | None = None,
    return_final_state: bool = False,
    return_total_decay: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length heads head_dim"] | tuple[Tensor, ...]:
    """Scan whole sequences; differentiable in every tensor.

    Args:
        x: input.
        dt: time step, before bias, softplus and limits.
        A: decay rates, usually negative.
        B: input weights, shared by the heads of a group.
        C: output weights, like ``B``.
        D: weight of the input in the output, per head or per channel.
        z: gate; its SiLU multiplies the output.
        dt_bias: added to ``dt``.
        dt_softplus: pass ``dt`` through a softplus.
        dt_limit: least and largest time step, applied last.
        chunk_size: longest chunk that an implementation may take; the result does not depend on it.
        initial_state: state before the first input (``segments`` = batch, or that of each packed sequence); zero if
            not given.
        return_final_state: also return the state after the last input.
        return_total_decay: also return the product of all decays of each sequence, (segments, heads, 1, 1): a scan from
            another state S has the final state ``final_state + total_decay * S``, so that scans over parts of a
            sequence compose.
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts again at each.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``x``, or ``(y, final_state)``; the state is float32 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; limits or bounds that do not increase. Values raise
            nothing: a NaN reaches its own row from its step on, and a negative time step grows the state.
    """
    limit = None if dt_limit is None else tuple(dt_limit)
    inputs = Inputs(x, dt, A, B, C, D, z, dt_bias, dt_softplus, limit, chunk_size, initial_state, cu_seqlens)
    y, final_state = SCAN(inputs, _check, implementation)
    total = _total_decay(inputs) if return_total_decay else None
    return with_state_and_decay(y, final_state if return_final_state else None, total)


def ssd_step(
    x: Float[Tensor, "batch heads head_dim"],
    dt: Float[Tensor, "batch heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch groups d_state"],
    C: Float[Tensor, "batch groups d_state"],
    D: Float[Tensor, "heads *head_dim"] | None = None,
    z: Float[Tensor, "batch heads head_dim"] | None = None,
    *,
    state: Float[Tensor, "batch heads head_dim d_state"],
    dt_bias: Float[Tensor, " heads"] | None = None,
    dt_softplus: bool = False,
    dt_limit: Sequence[float] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Tensor, "batch heads head_dim"], Float[Tensor, "batch heads head_dim d_state"]]:
    """One token of :func:`ssd`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`ssd`.
    """
    limit = None if dt_limit is None else tuple(dt_limit)
    return STEP(Inputs(x, dt, A, B, C, D, z, dt_bias, dt_softplus, limit, None, state), _check_step, implementation)


def _total_decay(inputs: Inputs) -> Tensor:
    return (sum_over_time(time_step(inputs), inputs.cu_seqlens) * inputs.A).exp()[..., None, None]


def _check(operation: str, inputs: Inputs) -> None:
    _check_shapes(operation, inputs, "batch, length", 4)
    if inputs.chunk_size is not None and inputs.chunk_size < 1:
        raise argument_error(operation, f"chunk_size={inputs.chunk_size}", "at least 1", "leave it at None")
    _check_state(operation, inputs, "initial_state", count_rows(operation, inputs.cu_seqlens, inputs.x))


def _check_step(operation: str, inputs: Inputs) -> None:
    _check_shapes(operation, inputs, "batch", 3)
    _check_state(operation, inputs, "state", inputs.x.shape[0])


def _check_shapes(operation: str, inputs: Inputs, leading: str, rank: int) -> None:
    x, B, limit = inputs.x, inputs.B, inputs.dt_limit
    if x.dim() != rank or B.dim() != rank or 0 in x.shape[1:] or 0 in B.shape[1:]:
        got = f"x of shape {tuple(x.shape)} and B of shape {tuple(B.shape)}"
        wanted = f"x ({leading}, heads, head_dim) and B ({leading}, groups, d_state) without empty axes"
        raise argument_error(operation, got, wanted, "split the channels into heads and groups")
    heads, groups = x.shape[-2], B.shape[-2]
    if heads % groups:
        raise argument_error(
            operation, f"{heads} heads and {groups} groups", "groups that divide the heads", "change either"
        )
    check_shape(operation, "dt", inputs.dt, f"{leading}, heads", tuple(x.shape[:-1]))
    for name, tensor in (("A", inputs.A), ("dt_bias", inputs.dt_bias)):
        check_shape(operation, name, tensor, "heads", (heads,))
    check_shape(operation, "B", B, f"{leading}, groups, d_state", (*x.shape[:-2], *B.shape[-2:]))
    check_shape(operation, "C", inputs.C, f"{leading}, groups, d_state", tuple(B.shape))
    check_shape(operation, "z", inputs.z, f"{leading}, heads, head_dim", tuple(x.shape))
    remedy = "give one weight per head, or one per channel of each head"
    check_shape_among(operation, "D", inputs.D, ((heads,), tuple(x.shape[-2:])), remedy)
    check_floating(operation, given_tensors(inputs._replace(cu_seqlens=None)), x.device)
    if limit is not None and (len(limit) != 2 or limit[0] > limit[1]):
        raise argument_error(operation, f"dt_limit={limit}", "an increasing pair", "swap the limits")


def _check_state(operation: str, inputs: Inputs, name: str, rows: int) -> None:
    wanted = (rows, *inputs.x.shape[-2:], inputs.B.shape[-1])
    check_shape(operation, name, inputs.initial_state, "batch or segments, heads, head_dim, d_state", wanted)
