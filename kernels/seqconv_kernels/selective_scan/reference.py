"""Readable form of :func:`seqconv_kernels.selective_scan`: one time step after another, any floating dtype."""

from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from .._core.checks import readable
from .._core.errors import argument_error


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t; y_t = (C_t h_t + D u_t) silu(z_t), segment by segment."""
    dtype = state_dtype(u, A, initial_state)
    dt = time_step(delta, delta_bias, delta_softplus, dtype)
    lengths = [u.shape[1]] if cu_seqlens is None else cu_seqlens.diff().tolist()
    segments = u.shape[0] if cu_seqlens is None else len(lengths)
    state = u.new_zeros(segments, *A.shape, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    starts = [state] if cu_seqlens is None else list(state.split(1))
    steps = zip(u.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True)
    ys, ends = [], []
    for h, length in zip(starts, lengths, strict=True):
        for u_t, dt_t, B_t, C_t in islice(steps, length):
            h, y = _advance(h, u_t, dt_t, A, B_t, C_t)
            ys.append(y)
        ends.append(h)
    return gated_output(torch.stack(ys, dim=1), u, D, z), torch.cat(ends)


def selective_scan_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence."""
    dtype = state_dtype(u, A, state)
    dt = time_step(delta, delta_bias, delta_softplus, dtype, "selective_scan_step")
    state, y = _advance(state.to(dtype), u, dt, A, B, C)
    return gated_output(y, u, D, z), state


def state_dtype(u: Tensor, A: Tensor, state: Tensor | None) -> torch.dtype:
    """The dtype of the state and of all sums: float32 at least."""
    dtype = torch.promote_types(torch.promote_types(u.dtype, A.dtype), torch.float32)
    return dtype if state is None else torch.promote_types(dtype, state.dtype)


def time_step(
    delta: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dtype: torch.dtype,
    operation: str = "selective_scan",
) -> Tensor:
    """Time step after bias and softplus.

    Raises:
        ValueError: it is negative or NaN somewhere (read on CPU only, and not while compiling).
    """
    dt = delta.to(dtype) if delta_bias is None else delta.to(dtype) + delta_bias
    dt = softplus(dt) if delta_softplus else dt
    if readable(dt) and not bool((dt >= 0).all()):
        raise negative_time_step(operation)
    return dt


def negative_time_step(operation: str) -> ValueError:
    """The refusal of a time step below zero, which every implementation on CPU shares."""
    got = "delta that is negative or NaN after bias and softplus"
    return argument_error(operation, got, "time steps >= 0", "set delta_softplus=True, or look for NaN upstream")


def _advance(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Next state (batch, channels, d_state), and C h (batch, channels)."""
    h = torch.exp(dt[..., None] * A) * h + (dt * u)[..., None] * _per_channel(B, h)
    return h, (h * _per_channel(C, h)).sum(-1)


def _per_channel(weights: Tensor, h: Tensor) -> Tensor:
    """(batch, [groups,] d_state) to (batch, channels or 1, d_state)."""
    if weights.dim() == 2:
        return weights[:, None]
    return weights.repeat_interleave(h.shape[1] // weights.shape[1], dim=1)


def gated_output(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """(y + D u) silu(z), in the dtype of u."""
    y = y if D is None else y + D * u
    return (y if z is None else y * silu(z.to(y.dtype))).to(u.dtype)
