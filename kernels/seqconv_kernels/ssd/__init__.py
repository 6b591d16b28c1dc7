"""State-space duality: the scan of Mamba-2, with one decay per head (Dao and Gu, 2024, *Transformers are SSMs*).

Equation, per head h of group g(h), with ``dt = clamp(softplus(dt + dt_bias), *dt_limit)`` (or without the softplus)
and a state ``S`` of (head_dim, d_state)::

    S[t] = exp(dt[t] A[h]) S[t-1] + dt[t] x[t] B[t, g]^T
    y[t] = (S[t] C[t, g] + D[h] x[t]) * silu(z[t])
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .._core import native
from .._core.checks import check_floating, check_shape, check_shape_among, may_be_overwritten, readable
from .._core.dispatch import Call, Implementation, Op, serves_all
from .._core.errors import argument_error
from .._core.packing import count_rows, over_segments
from .._core.precision import accumulation_dtype
from .._linear_attention import refuse_triton
from . import mamba_ssm as installed


def _chunked() -> Any:
    from .chunked import ssd

    return _padded(ssd)


def _cpu() -> Any:
    from .cpu import ssd

    return ssd


def _refuse_cpu(call: Call) -> str | None:
    return native.refuse_call(call.given())


def _reference() -> Any:
    from .reference import ssd

    return _padded(ssd)


def _triton() -> Any:
    from .triton import ssd

    return ssd


def _mamba_ssm() -> Any:
    from .mamba_ssm import ssd

    return _padded(ssd)


def _refuse_triton(call: Call) -> str | None:
    return refuse_triton(call, key="B", activation="x")


def _padded(run: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``run``, which takes a batch, for packed sequences too."""

    def scan(
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        state: Tensor | None,
        chunk_size: int | None,
        cu_seqlens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        def batch(x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
            return run(x, dt, A, B, C, state, chunk_size)

        return over_segments(batch, cu_seqlens, x, dt, B, C)

    return scan


OP = Op(
    "ssd",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("mamba-ssm", _mamba_ssm, installed.refuse),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("chunked", _chunked, serves_all),
    Implementation("reference", _reference, serves_all),
)


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
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Float[Tensor, "batch length heads head_dim"] | tuple[Tensor, Tensor]:
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
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts anew at each.
        implementation: a name, or ``None`` for the fastest that serves.

    Returns:
        y shaped and typed like ``x``, or ``(y, final_state)``; the state is float32 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; limits or bounds that do not increase; a time step
            that is negative or NaN (values are read on CPU only, and not while compiling).
    """
    tensors = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    _check("ssd", tensors | {"initial_state": initial_state}, "batch, length", 4)
    if chunk_size is not None and chunk_size < 1:
        raise argument_error("ssd", f"chunk_size={chunk_size}", "at least 1", "leave it at None")
    run = OP.choose(implementation, Call(tensors | {"initial_state": initial_state}, {"chunk_size": chunk_size}))
    _check_state("ssd", initial_state, count_rows("ssd", cu_seqlens, x), x, B)
    steps = _discretise("ssd", dt, dt_bias, dt_softplus, dt_limit)
    y, final_state = run(x, steps, A, B, C, initial_state, chunk_size, cu_seqlens)
    y = _skip_and_gate(y, x, D, z)
    return (y, final_state) if return_final_state else y


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
) -> tuple[Float[Tensor, "batch heads head_dim"], Float[Tensor, "batch heads head_dim d_state"]]:
    """One token of :func:`ssd`, from ``state``: the output and the next state.

    On CPU the next state is written over the last one where no gradient is needed.

    Raises:
        ValueError: as for :func:`ssd`.
    """
    from .reference import step

    tensors = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias, "state": state}
    _check("ssd_step", tensors, "batch", 3)
    _check_state("ssd_step", state, x.shape[0], x, B)
    steps = _discretise("ssd_step", dt, dt_bias, dt_softplus, dt_limit)
    if may_be_overwritten(state, x, steps, A, B, C):
        from .cpu import step_in_place

        y = step_in_place(x, steps, A, B, C, state)
    else:
        y, state = step(x, steps, A, B, C, state)
    return _skip_and_gate(y, x, D, z), state


def _discretise(
    operation: str, dt: Tensor, bias: Tensor | None, softplus: bool, limit: Sequence[float] | None
) -> Tensor:
    """The time steps, in the dtype of the sums."""
    dt = dt.to(accumulation_dtype(dt, bias))
    dt = dt if bias is None else dt + bias
    dt = F.softplus(dt) if softplus else dt
    if limit is not None:
        least, largest = limit
        if least > largest:
            raise argument_error(operation, f"dt_limit=({least}, {largest})", "an increasing pair", "swap the limits")
        dt = dt.clamp(least, largest)
    if readable(dt) and bool((dt.isnan() | (dt < 0)).any()):
        got = "time steps that are negative or NaN"
        raise argument_error(operation, got, "time steps of at least 0", "pass dt_softplus=True, or correct the inputs")
    return dt


def _skip_and_gate(y: Tensor, x: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    if D is not None:
        y = y + (D[:, None] if D.dim() == 1 else D) * x
    return (y if z is None else y * F.silu(z.to(y.dtype))).to(x.dtype)


def _check(operation: str, tensors: dict[str, Tensor | None], leading: str, rank: int) -> None:
    x, B = tensors["x"], tensors["B"]
    assert x is not None
    assert B is not None
    if x.dim() != rank or B.dim() != rank or 0 in x.shape[1:] or 0 in B.shape[1:]:
        got = f"x of shape {tuple(x.shape)} and B of shape {tuple(B.shape)}"
        wanted = f"x ({leading}, heads, head_dim) and B ({leading}, groups, d_state) without empty axes"
        raise argument_error(operation, got, wanted, "split the channels into heads and groups")
    heads, groups = x.shape[-2], B.shape[-2]
    if heads % groups:
        raise argument_error(
            operation, f"{heads} heads and {groups} groups", "groups that divide the heads", "change either"
        )
    check_shape(operation, "dt", tensors["dt"], f"{leading}, heads", tuple(x.shape[:-1]))
    for name in ("A", "dt_bias"):
        check_shape(operation, name, tensors[name], "heads", (heads,))
    check_shape(operation, "B", B, f"{leading}, groups, d_state", (*x.shape[:-2], *B.shape[-2:]))
    check_shape(operation, "C", tensors["C"], f"{leading}, groups, d_state", tuple(B.shape))
    check_shape(operation, "z", tensors["z"], f"{leading}, heads, head_dim", tuple(x.shape))
    remedy = "give one weight per head, or one per channel of each head"
    check_shape_among(operation, "D", tensors["D"], ((heads,), tuple(x.shape[-2:])), remedy)
    check_floating(operation, tensors, x.device)


def _check_state(operation: str, state: Tensor | None, rows: int, x: Tensor, B: Tensor) -> None:
    wanted = (rows, *x.shape[-2:], B.shape[-1])
    check_shape(operation, "the state", state, "batch or segments, heads, head_dim, d_state", wanted)
