"""Linear recurrence with a diagonal that changes in time, real or complex: HGRN, LRU, S5, the states of a chunked scan.

Equation, per channel: ``h[t] = a[t] h[t-1] + x[t]``. A factor of zero resets the state.
"""

import torch
from jaxtyping import Inexact, Int
from torch import Tensor

from .._core.checks import check_shape
from .._core.errors import argument_error
from .._core.packing import Segments, count_rows, with_state_and_decay
from .._core.precision import accumulation_dtype
from .spec import SCAN, STEP, Inputs


def linear_scan(
    a: Inexact[Tensor, "batch length *channels"],
    x: Inexact[Tensor, "batch length *channels"],
    *,
    initial_state: Inexact[Tensor, "segments *channels"] | None = None,
    return_final_state: bool = False,
    return_total_decay: bool = False,
    cu_seqlens: Int[Tensor, " bounds"] | None = None,
    implementation: str | None = None,
) -> Inexact[Tensor, "batch length *channels"] | tuple[Tensor, ...]:
    """Scan whole sequences; differentiable in every tensor.

    Args:
        a: factors, real or complex.
        x: inputs.
        initial_state: state before the first input (``segments`` = batch, or that of each packed sequence); zero if
            not given.
        return_final_state: also return the state after the last input.
        return_total_decay: also return the product of all decays of each sequence, shaped like the state: a scan from
            another state S has the final state ``final_state + total_decay * S``, so that scans over parts of a
            sequence compose.
        cu_seqlens: bounds of sequences packed into a batch of one; the state starts again at each.
        implementation: ``"triton"``, ``"cpu"``, ``"chunked"``, ``"reference"`` or ``None`` for the fastest that serves.

    Returns:
        h with the dtype of ``x`` (complex if anything is complex), or ``(h, final_state)``; the state is float32 or
        complex64 at least, like the sums inside.

    Raises:
        ValueError: shapes, dtypes or devices that do not match; bounds that do not increase to the length.
    """
    h, final_state = SCAN(Inputs(a, x, initial_state, cu_seqlens), _check, implementation)
    h = h.to(_output_dtype(accumulation_dtype(a, x, initial_state), x))
    total = _total_decay(a, accumulation_dtype(a, x, initial_state), cu_seqlens) if return_total_decay else None
    return with_state_and_decay(h, final_state if return_final_state else None, total)


def linear_scan_step(
    a: Inexact[Tensor, "batch *channels"],
    x: Inexact[Tensor, "batch *channels"],
    *,
    state: Inexact[Tensor, "batch *channels"],
    implementation: str | None = None,
) -> tuple[Inexact[Tensor, "batch *channels"], Inexact[Tensor, "batch *channels"]]:
    """One token of :func:`linear_scan`, from ``state``: the output and the next state.

    Raises:
        ValueError: as for :func:`linear_scan`.
    """
    h = STEP(Inputs(a, x, state), _check_step, implementation)
    dtype = _output_dtype(h.dtype, x)
    return h.clone() if h.dtype == dtype else h.to(dtype), h  # two tensors: either may be written into


def _total_decay(a: Tensor, dtype: torch.dtype, cu_seqlens: Tensor | None) -> Tensor:
    factors = a.to(dtype)
    return (factors if cu_seqlens is None else Segments(cu_seqlens, a.device).unpack(factors, 1.0)).prod(1)


def _output_dtype(dtype: torch.dtype, x: Tensor) -> torch.dtype:
    return dtype if dtype.is_complex else x.dtype


def _check(operation: str, inputs: Inputs) -> None:
    x = inputs.x
    if x.dim() < 2 or x.shape[1] == 0:
        got = f"x of shape {tuple(x.shape)}"
        raise argument_error(operation, got, "(batch, length >= 1, channels)", "add the axes")
    rows = count_rows(operation, inputs.cu_seqlens, x)
    _check_shapes(operation, inputs, "initial_state", (rows, *x.shape[2:]))


def _check_step(operation: str, inputs: Inputs) -> None:
    x = inputs.x
    if x.dim() < 1:
        raise argument_error(operation, f"x of shape {tuple(x.shape)}", "(batch, channels)", "add the axes")
    _check_shapes(operation, inputs, "state", tuple(x.shape))


def _check_shapes(operation: str, inputs: Inputs, state: str, wanted: tuple[int, ...]) -> None:
    x = inputs.x
    check_shape(operation, "a", inputs.a, "like x", tuple(x.shape))
    for name, tensor in (("a", inputs.a), ("x", x), (state, inputs.initial_state)):
        if tensor is None or (tensor.device == x.device and (tensor.is_floating_point() or tensor.is_complex())):
            continue
        got = f"{name} of dtype {tensor.dtype} on {tensor.device}"
        raise argument_error(operation, got, f"a floating or complex dtype on {x.device}", f"convert {name} with .to()")
    check_shape(operation, state, inputs.initial_state, "batch or segments, channels", wanted)
