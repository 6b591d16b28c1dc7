"""Readable form of :func:`seqconv_kernels.selective_scan`: one time step after another, any floating dtype."""

from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from .._core.packing import reversible
from .._core.precision import accumulation_dtype
from .spec import TOKENS, Inputs


@reversible(*TOKENS)
def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t; y_t = (C_t h_t + D u_t) silu(z_t), segment by segment."""
    u, cu_seqlens, dtype = inputs.u, inputs.cu_seqlens, state_dtype(inputs)
    # Widened once, outside the loop: its gradient is then a sum over the steps in that dtype, too.
    A, dt = inputs.A.to(dtype), time_step(inputs, dtype)
    lengths = [u.shape[1]] if cu_seqlens is None else cu_seqlens.diff().tolist()
    segments = u.shape[0] if cu_seqlens is None else len(lengths)
    state = inputs.initial_state
    state = u.new_zeros(segments, *A.shape, dtype=dtype) if state is None else state.to(dtype)
    starts = [state] if cu_seqlens is None else list(state.split(1))
    steps = zip(u.unbind(1), dt.unbind(1), inputs.B.unbind(1), inputs.C.unbind(1), strict=True)
    ys, ends = [], []
    for h, length in zip(starts, lengths, strict=True):
        for u_t, dt_t, B_t, C_t in islice(steps, length):
            h, y = _advance(h, u_t, dt_t, A, B_t, C_t)
            ys.append(y)
        ends.append(h)
    return gated_output(torch.stack(ys, dim=1), inputs), torch.cat(ends)


def selective_scan_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One step of the recurrence."""
    assert inputs.initial_state is not None
    dtype = state_dtype(inputs)
    dt = time_step(inputs, dtype)
    state, y = _advance(inputs.initial_state.to(dtype), inputs.u, dt, inputs.A, inputs.B, inputs.C)
    return gated_output(y, inputs), state


def state_dtype(inputs: Inputs) -> torch.dtype:
    """The dtype of the state and of all sums: float32 at least."""
    return accumulation_dtype(inputs.u, inputs.A, inputs.initial_state)


def time_step(inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """Time step after bias and softplus."""
    dt = inputs.delta.to(dtype) if inputs.delta_bias is None else inputs.delta.to(dtype) + inputs.delta_bias
    return softplus(dt) if inputs.delta_softplus else dt


def _advance(h: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Next state (batch, channels, d_state), and C h (batch, channels)."""
    h = torch.exp(dt[..., None] * A) * h + (dt * u)[..., None] * _per_channel(B, h)
    return h, (h * _per_channel(C, h)).sum(-1)


def _per_channel(weights: Tensor, h: Tensor) -> Tensor:
    """(batch, [groups,] d_state) to (batch, channels or 1, d_state)."""
    if weights.dim() == 2:
        return weights[:, None]
    return weights.repeat_interleave(h.shape[1] // weights.shape[1], dim=1)


def gated_output(y: Tensor, inputs: Inputs) -> Tensor:
    """(y + D u) silu(z), in the dtype of u."""
    u, D, z = inputs.u, inputs.D, inputs.z
    y = y if D is None else y + D * u
    return (y if z is None else y * silu(z.to(y.dtype))).to(u.dtype)
