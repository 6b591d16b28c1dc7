"""Readable form of :func:`seqconv_kernels.ssd`: token by token, any floating dtype."""

from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.packing import padded
from .._core.precision import accumulation_dtype, without_autocast
from .spec import Inputs

Run = Callable[[Inputs], tuple[Tensor, Tensor]]


def discretised(run: Run) -> Run:
    """The op from its recurrence ``y = S C`` over final time steps: these before it, skip and gate after it."""

    @wraps(run)
    def scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
        y, state = run(inputs._replace(dt=time_step(inputs)))
        x, D, z = inputs.x, inputs.D, inputs.z
        if D is not None:
            y = y + (D[:, None] if D.dim() == 1 else D) * x
        return (y if z is None else y * F.silu(z.to(y.dtype))).to(x.dtype), state

    return scan


def time_step(inputs: Inputs) -> Tensor:
    """The time steps after bias, softplus and limits, in the dtype of the sums."""
    dt = inputs.dt.to(accumulation_dtype(inputs.dt, inputs.dt_bias))
    dt = dt if inputs.dt_bias is None else dt + inputs.dt_bias
    dt = F.softplus(dt) if inputs.dt_softplus else dt
    return dt if inputs.dt_limit is None else dt.clamp(*inputs.dt_limit)


@discretised
@padded("x", "dt", "B", "C")
def ssd(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """S <- exp(dt_t A) S + dt_t x_t B_t^T ; y_t = S C_t."""
    x, dt, B, C, state = inputs.x, inputs.dt, inputs.B, inputs.C, inputs.initial_state
    # Widened once, outside the loop: its gradient is then a sum over the steps in that dtype, too.
    A = inputs.A.to(accumulation_dtype(x, dt, inputs.A, B, C, state))
    state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]) if state is None else state
    outputs = []
    for x_t, dt_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, dt, B, C)), strict=True):
        y_t, state = _advance(x_t, dt_t, A, B_t, C_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


@discretised
def ssd_step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """One token; heads of a group share B and C."""
    assert inputs.initial_state is not None
    return _advance(inputs.x, inputs.dt, inputs.A, inputs.B, inputs.C, inputs.initial_state)


@without_autocast
def _advance(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs in the dtype of the sums, and the next state."""
    dtype = accumulation_dtype(x, dt, A, B, C, state)
    x, dt, A, B, C, state = (t.to(dtype) for t in (x, dt, A, B, C, state))
    B, C = (t.repeat_interleave(x.shape[1] // t.shape[1], dim=1) for t in (B, C))
    state = (dt * A).exp()[..., None, None] * state + (dt[..., None] * x)[..., :, None] * B[..., None, :]
    return torch.einsum("bhpn,bhn->bhp", state, C), state
