"""The state-space dual scan in Triton: linear attention with a scalar decay (:mod:`.._linear_attention.triton`).

Query C, key B, value x, strength dt, decay ``exp(dt A)``; the heads of a group share B and C. The chunk size, which
changes no result, changes nothing here.
"""

from torch import Tensor

from .._linear_attention.triton import linear_attention
from .reference import discretised
from .spec import Inputs


@discretised
def ssd(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    dt, state = inputs.dt, inputs.initial_state
    first = None if state is None else state.mT
    y, last = linear_attention(
        inputs.C, inputs.B, inputs.x, dt * inputs.A, dt, 1.0, first, inputs.cu_seqlens, delta=False
    )  # fmt: skip
    return y, last.mT
