"""Readable form of :func:`seqconv_kernels.ssd`: token by token, any floating dtype."""

import torch
from torch import Tensor

from .._core.precision import accumulation_dtype, without_autocast


@without_autocast
def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int | None
) -> tuple[Tensor, Tensor]:
    """S <- exp(dt_t A) S + dt_t x_t B_t^T ; y_t = S C_t. Returns y in the dtype of the sums."""
    if state is None:
        state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    outputs = []
    for x_t, dt_t, B_t, C_t in zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        y_t, state = step(x_t, dt_t, A, B_t, C_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


@without_autocast
def step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token; heads of a group share B and C."""
    dtype = accumulation_dtype(x, dt, A, B, C, state)
    x, dt, A, B, C, state = (t.to(dtype) for t in (x, dt, A, B, C, state))
    B, C = (t.repeat_interleave(x.shape[1] // t.shape[1], dim=1) for t in (B, C))
    state = (dt * A).exp()[..., None, None] * state + (dt[..., None] * x)[..., :, None] * B[..., None, :]
    return torch.einsum("bhpn,bhn->bhp", state, C), state
