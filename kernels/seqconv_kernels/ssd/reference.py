"""Readable form of :func:`seqconv_kernels.ssd`: token by token, any floating dtype."""

from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.checks import readable
from .._core.errors import argument_error
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
    """The time steps after bias, softplus and limits, in the dtype of the sums.

    Raises:
        ValueError: one is negative or NaN (read on CPU only, and not while compiling).
    """
    dt = inputs.dt.to(accumulation_dtype(inputs.dt, inputs.dt_bias))
    dt = dt if inputs.dt_bias is None else dt + inputs.dt_bias
    dt = F.softplus(dt) if inputs.dt_softplus else dt
    dt = dt if inputs.dt_limit is None else dt.clamp(*inputs.dt_limit)
    if readable(dt) and bool((dt.isnan() | (dt < 0)).any()):
        got = "time steps that are negative or NaN"
        operation = "ssd" if inputs.x.dim() == 4 else "ssd_step"
        raise argument_error(operation, got, "time steps of at least 0", "pass dt_softplus=True, or correct the inputs")
    return dt


@discretised
@padded("x", "dt", "B", "C")
def ssd(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """S <- exp(dt_t A) S + dt_t x_t B_t^T ; y_t = S C_t."""
    x, B, state = inputs.x, inputs.B, inputs.initial_state
    state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1]) if state is None else state
    outputs = []
    for x_t, dt_t, B_t, C_t in zip(*(t.unbind(1) for t in (x, inputs.dt, B, inputs.C)), strict=True):
        y_t, state = _advance(x_t, dt_t, inputs.A, B_t, C_t, state)
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
