"""Linear recurrence with a diagonal that changes in time, real or complex: HGRN, LRU, S5, the states of a chunked scan.

Equation, per channel: ``h[t] = a[t] h[t-1] + x[t]``. A factor of zero resets the state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Inexact, Int
from torch import Tensor

from .._core.checks import check_shape
from .._core.dispatch import Call, Implementation, Op, lazy, serves_all
from .._core.errors import argument_error
from .._core.packing import Segments, count_rows
from .._core.precision import accumulation_dtype
from .._core.triton_support import refuse as refuse_triton


def _cpu() -> Any:
    from .cpu import linear_scan

    return linear_scan


@lazy
def _refuse_cpu() -> Callable[[Call], str | None]:
    from .cpu import refuse

    return refuse


def _chunked() -> Any:
    from .chunked import linear_scan

    return _padded(linear_scan)


def _reference() -> Any:
    from .reference import linear_scan

    return _padded(linear_scan)


def _triton() -> Any:
    from .triton import linear_scan

    return _padded(linear_scan)


def _refuse_triton(call: Call) -> str | None:
    return refuse_triton(call, activation="x")


def _padded(run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``run``, which takes a batch of one dtype and a state, for packed sequences and any dtypes too."""

    def scan(a: Tensor, x: Tensor, state: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
        segments = None if cu_seqlens is None else Segments(cu_seqlens, x.device)
        if segments is not None:
            a, x = segments.unpack(a, 1.0), segments.unpack(x)
        dtype = accumulation_dtype(a, x, state)
        start = torch.zeros_like(x[:, 0], dtype=dtype) if state is None else state.to(dtype)
        h = run(a.to(dtype), x.to(dtype), start)
        return h if segments is None else segments.pack(h), h[:, -1]

    return scan


OP = Op(
    "linear_scan",
    Implementation("triton", _triton, _refuse_triton),
    Implementation("cpu", _cpu, _refuse_cpu),
    Implementation("chunked", _chunked, serves_all),
    Implementation("reference", _reference, serves_all),
)


def linear_scan(
    a: Inexact[Tensor, "batch length *channels"],
    x: Inexact[Tensor, "batch length *channels"],
    *,
    initial_state: Inexact[Tensor, "segments *channels"] | None = None,
    return_final_state: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Inexact[Tensor, "batch length *channels"] | tuple[Tensor, Tensor]:
    """Scan whole sequences; differentiable in every tensor.

    Args:
        a: factors, real or complex.
        x: inputs.
        initial_state: state before the first input (``segments`` = batch, or that of each packed sequence); zero if
            not given.
        return_final_state: also return the state after the last input.
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts anew at each.
        implementation: ``"triton"``, ``"cpu"``, ``"chunked"``, ``"reference"`` or ``None`` for the fastest that serves.

    Returns:
        h with the dtype of ``x`` (complex if anything is complex), or ``(h, final_state)``; the state is float32 or
        complex64 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; bounds that do not increase to the length.
    """
    tensors = {"a": a, "x": x, "initial_state": initial_state}
    _check("linear_scan", tensors, 2)
    rows = count_rows("linear_scan", cu_seqlens, x)
    check_shape("linear_scan", "initial_state", initial_state, "batch or segments, channels", (rows, *x.shape[2:]))
    run = OP.choose(implementation, Call(tensors))
    h, final_state = run(a, x, initial_state, cu_seqlens)
    h = h.to(_out(accumulation_dtype(a, x, initial_state), x))
    return (h, final_state) if return_final_state else h


def linear_scan_step(
    a: Inexact[Tensor, "batch *channels"],
    x: Inexact[Tensor, "batch *channels"],
    *,
    state: Inexact[Tensor, "batch *channels"],
) -> tuple[Inexact[Tensor, "batch *channels"], Inexact[Tensor, "batch *channels"]]:
    """One token of :func:`linear_scan`, from ``state``: the output and the next state.

    Raises:
        ValueError: as for :func:`linear_scan`.
    """
    tensors = {"a": a, "x": x, "state": state}
    _check("linear_scan_step", tensors, 1)
    check_shape("linear_scan_step", "state", state, "batch, channels", tuple(x.shape))
    dtype = accumulation_dtype(a, x, state)
    state = a.to(dtype) * state.to(dtype) + x.to(dtype)
    return state.to(_out(dtype, x)), state


def _out(dtype: torch.dtype, x: Tensor) -> torch.dtype:
    return dtype if dtype.is_complex else x.dtype


def _check(operation: str, tensors: Mapping[str, Tensor | None], leading: int) -> None:
    a, x = tensors["a"], tensors["x"]
    assert a is not None
    assert x is not None
    axes = "(batch, length >= 1, channels)" if leading == 2 else "(batch, channels)"
    if x.dim() < leading or (leading == 2 and x.shape[1] == 0):
        raise argument_error(operation, f"x of shape {tuple(x.shape)}", axes, "add the axes")
    check_shape(operation, "a", a, "like x", tuple(x.shape))
    for name, tensor in tensors.items():
        if tensor is None or (tensor.device == x.device and (tensor.is_floating_point() or tensor.is_complex())):
            continue
        got = f"{name} of dtype {tensor.dtype} on {tensor.device}"
        raise argument_error(operation, got, f"a floating or complex dtype on {x.device}", f"convert {name} with .to()")
