"""The state-space dual scan in C++: linear attention with a scalar decay (:mod:`.._linear_attention.cpu`).

Query C, key B, value ``dt x``, decay ``exp(dt A)``; the heads of a group share B and C. The chunk size, which changes
no result, changes nothing here.
"""

import torch
from torch import Tensor

from .._core.precision import accumulation_dtype, without_autocast
from .._core.steps import state_to_overwrite
from .._linear_attention.cpu import linear_attention
from .._linear_attention.spec import Inputs as Recurrence
from .reference import discretised
from .spec import Inputs


@discretised
@without_autocast
def ssd(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    x, dt, A, B, C, state = inputs.x, inputs.dt, inputs.A, inputs.B, inputs.C, inputs.initial_state
    dt = dt.to(accumulation_dtype(x, dt, A, B, C, state))
    first = None if state is None else state.mT
    y, last = linear_attention(Recurrence(C, B, dt[..., None] * x, dt * A, None, 1.0, first, inputs.cu_seqlens))
    return y, last.mT


@discretised
@without_autocast
def ssd_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token from the state, which is overwritten."""
    given = (inputs.x, inputs.dt, inputs.A, inputs.B, inputs.C)
    state = state_to_overwrite(inputs.initial_state, accumulation_dtype(*given, inputs.initial_state))
    x, dt, A, B, C = (t.to(state.dtype) for t in given)
    B, C = (t.repeat_interleave(x.shape[1] // t.shape[1], dim=1) for t in (B, C))
    state.mul_((dt * A).exp()[..., None, None]).addcmul_((dt[..., None] * x)[..., None], B[..., None, :])
    return torch.einsum("bhpn,bhn->bhp", state, C), state
