"""The state-space dual scan in C++: linear attention with a scalar decay (:mod:`..matrix_state.cpu`).

Query C, key B, value ``dt x``, decay ``exp(dt A)``; the heads of a group share B and C.
"""

from torch import Tensor

from ..matrix_state.cpu import matrix_state
from ..precision import accumulation_dtype, without_autocast


@without_autocast
def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk_size: int | None
) -> tuple[Tensor, Tensor]:
    """The chunk size, which changes no result, changes nothing here."""
    dtype = accumulation_dtype(x, dt, A, B, C, state)
    dt = dt.to(dtype)
    first = None if state is None else state.mT
    y, last = matrix_state(C, B, dt[..., None] * x, dt * A, None, 1.0, first)
    return y, last.mT
