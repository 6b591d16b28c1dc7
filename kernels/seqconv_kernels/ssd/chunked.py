"""Chunked form of :func:`seqconv_kernels.ssd`: linear attention with a scalar decay, in matrix products.

Query C, key B, value ``dt x``, decay ``exp(dt A)``; the scores ``C B^T`` are computed once per group.
"""

from torch import Tensor

from .._core.packing import padded
from .._core.precision import accumulation_dtype, without_autocast
from .._linear_attention.chunks import CHUNK
from ..gated_linear_attention.chunked import scalar_decay
from .reference import discretised
from .spec import Inputs


@discretised
@padded("x", "dt", "B", "C")
@without_autocast
def ssd(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Groups of heads share B and C; the heads of a group are its repeats."""
    given, state = (inputs.x, inputs.dt, inputs.A, inputs.B, inputs.C), inputs.initial_state
    dtype = accumulation_dtype(*given, state)
    x, dt, A, B, C = (t.to(dtype) for t in given)
    groups = B.shape[2]
    state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]) if state is None else state
    keys, queries = (t.movedim(1, 2)[:, :, None] for t in (B, C))
    values, decay = (t.unflatten(2, (groups, -1)).movedim(1, 3) for t in (dt[..., None] * x, (dt * A).exp()))
    first = state.to(dtype).unflatten(1, (groups, -1)).mT
    y, last = scalar_decay(queries, keys, values, decay, first, min(inputs.chunk_size or CHUNK, CHUNK))
    return y.movedim(3, 1).flatten(2, 3), last.mT.flatten(1, 2)
