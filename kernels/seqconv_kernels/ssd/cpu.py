"""The state-space dual scan in C++: linear attention with a scalar decay (:mod:`.._linear_attention.cpu`).

Query C, key B, value ``dt x``, decay ``exp(dt A)``; the heads of a group share B and C.
"""

import torch
from torch import Tensor

from .._core.precision import accumulation_dtype, without_autocast
from .._linear_attention.cpu import linear_attention


@without_autocast
def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    chunk_size: int | None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The chunk size, which changes no result, changes nothing here."""
    dtype = accumulation_dtype(x, dt, A, B, C, state)
    dt = dt.to(dtype)
    first = None if state is None else state.mT
    y, last = linear_attention(C, B, dt[..., None] * x, dt * A, None, 1.0, first, cu_seqlens)
    return y, last.mT


@without_autocast
def step_in_place(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> Tensor:
    """One token from ``state``, which is overwritten and :func:`~seqconv_kernels._core.checks.may_be_overwritten`."""
    x, dt, A, B, C = (t.to(state.dtype) for t in (x, dt, A, B, C))
    B, C = (t.repeat_interleave(x.shape[1] // t.shape[1], dim=1) for t in (B, C))
    state.mul_((dt * A).exp()[..., None, None]).addcmul_((dt[..., None] * x)[..., None], B[..., None, :])
    return torch.einsum("bhpn,bhn->bhp", state, C)
