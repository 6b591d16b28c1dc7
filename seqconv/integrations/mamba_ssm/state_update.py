"""``selective_state_update``: one time step of Mamba-1 and Mamba-2, whose states are moved on in place.

Source: ``mamba_ssm/ops/triton/selective_state_update.py`` of state-spaces/mamba at e9594ce1.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels import selective_scan_step, ssd_step

from .. import pools


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
    *,
    implementation: str | None = None,
) -> Tensor:
    """One time step; ``state`` is moved on in place, in its own dtype.

    What belongs to a head may be one number spread over its channels (strides of zero), as Mamba-2 passes it.

    Args:
        state: (batch or rows of a pool, dim, dstate) or (..., heads, dim, dstate), of any floating dtype.
        x, dt, z: (batch, dim) or (batch, heads, dim).
        A: (dim, dstate) or (heads, dim, dstate).
        B, C: (batch, dstate) or (batch, groups, dstate).
        D, dt_bias: (dim) or (heads, dim).
        dt_softplus: pass ``dt`` through a softplus.
        state_batch_indices: (batch), row of the pool; -1 for none, with an output of zero.
        implementation: of the op.

    Returns:
        Like ``x``.
    """
    pools.check_indices("selective_state_update", "state_batch_indices", state_batch_indices, x.shape[0])
    before = pools.read(state, state_batch_indices)
    before = before.to(torch.promote_types(before.dtype, torch.float32))
    run = _per_head if _tied(dt, A, dt_bias) else _per_channel
    y, after = run(before, x, dt, A, B, C, D, z, dt_bias, dt_softplus=dt_softplus, implementation=implementation)
    pools.write(state, after, state_batch_indices)
    return pools.blank(y, state_batch_indices)


selective_state_update_ref = partial(selective_state_update, implementation="reference")


def _tied(dt: Tensor, A: Tensor, dt_bias: Tensor | None) -> bool:
    """Whether the time step and A are one number per head."""
    over_channels = [dt.stride(-1), A.stride(-1), A.stride(-2), *([] if dt_bias is None else [dt_bias.stride(-1)])]
    return A.dim() == 3 and dt.dim() == 3 and not any(over_channels)


def _per_head(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    B, C = (t[:, None] if t.dim() == 2 else t for t in (B, C))
    bias = None if dt_bias is None else dt_bias[..., 0]
    return ssd_step(x, dt[..., 0], A[..., 0, 0], B, C, D, z, state=state, dt_bias=bias, **options)


def _per_channel(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    *,
    dt_softplus: bool,
    implementation: str | None,
) -> tuple[Tensor, Tensor]:
    """Heads are groups of channels."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, dt.dtype), torch.promote_types(B.dtype, C.dtype))
    y, after = selective_scan_step(
        x.flatten(1).to(dtype),
        dt.flatten(1).to(dtype),
        A.flatten(0, -2),
        B.to(dtype),
        C.to(dtype),
        None if D is None else D.flatten(),
        None if z is None else z.flatten(1).to(dtype),
        state=state.flatten(1, -2),
        delta_bias=None if dt_bias is None else dt_bias.flatten(),
        delta_softplus=dt_softplus,
        implementation=implementation,
    )
    return y.view(x.shape).to(x.dtype), after.view(state.shape)
