"""Chunked form of :func:`seqconv_kernels.ssd`: linear attention with a scalar decay, in matrix products.

Query C, key B, value ``dt x``, decay ``exp(dt A)``; the scores ``C B^T`` are computed once per group.
"""

from torch import Tensor

from .._core.precision import accumulation_dtype, without_autocast
from ..gated_linear_attention.chunked import scalar_decay


@without_autocast
def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int | None
) -> tuple[Tensor, Tensor]:
    """Groups of heads share B and C; the heads of a group are its repeats."""
    dtype = accumulation_dtype(x, dt, A, B, C, state)
    x, dt, A, B, C = (t.to(dtype) for t in (x, dt, A, B, C))
    groups = B.shape[2]
    if state is None:
        state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    keys, queries = (t.movedim(1, 2)[:, :, None] for t in (B, C))
    values, decay = (t.unflatten(2, (groups, -1)).movedim(1, 3) for t in (dt[..., None] * x, (dt * A).exp()))
    first = state.to(dtype).unflatten(1, (groups, -1)).mT
    y, last = scalar_decay(queries, keys, values, decay, first, min(chunk_size or 64, 64))
    return y.movedim(3, 1).flatten(2, 3), last.mT.flatten(1, 2)
