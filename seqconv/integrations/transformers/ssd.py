"""``mamba_chunk_scan_combined``, its fused form and ``selective_state_update`` as transformers calls them."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from seqconv_kernels import ssd, ssd_step

from .call import Call, Unserved, for_backward
from .padding import skipped
from .selective_scan import selective_scan_update


def mamba_chunk_scan_combined(
    call: Call,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: Sequence[float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **unused: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scan whole sequences.

    Args:
        call: of the layer.
        x: (batch, length, heads, head_dim).
        dt: (batch, length, heads).
        A: (heads).
        B, C: (batch, length, groups, d_state).
        chunk_size: longest chunk; the result does not depend on it.
        D: (heads) or (heads, head_dim).
        z: gate, like ``x``.
        dt_bias: (heads).
        initial_states: (batch, heads, head_dim, d_state).
        dt_softplus: pass ``dt`` through a softplus.
        dt_limit: least and largest time step.
        return_final_states: also return the last states.
        unused: ``seq_idx`` and others: boundaries are those of the call.
    """
    if (padding := skipped(call, x.shape[1])) is not None:
        dt = _time_step(dt, dt_bias, dt_softplus, dt_limit).masked_fill(padding[..., None], 0)
        dt_bias, dt_softplus, dt_limit = None, False, (0.0, float("inf"))
    documents, bounds = call.documents, None
    if documents is not None:
        x, dt, B, C = (documents.pack(t) for t in (x, dt, B, C))
        z = None if z is None else documents.pack(z)
        bounds, initial_states = documents.bounds, None
    y, last = ssd(
        x,
        dt,
        A,
        B,
        C,
        D,
        z,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        dt_limit=dt_limit,
        initial_state=for_backward(initial_states),
        return_final_state=True,
        cu_seqlens=bounds,
    )
    y = y if documents is None else documents.unpack(y)
    return (y, last) if return_final_states else y


def _time_step(dt: Tensor, bias: Tensor | None, softplus: bool, limit: Sequence[float]) -> Tensor:
    dt = dt.float() if bias is None else dt.float() + bias.float()
    return (F.softplus(dt) if softplus else dt).clamp(*limit)


def mamba_split_conv1d_scan_combined(call: Call, *args: Any, **kwargs: Any) -> None:
    """Nothing: the layer then calls its norm and its projections as modules, so that adapters act."""


def selective_state_update(
    call: Call,
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    z: Tensor | None = None,
    **unused: Any,
) -> Tensor:
    """One time step of Mamba-1 (``state`` of rank 3) or Mamba-2 (rank 4); ``state`` is moved on in place.

    Mamba-2 passes what belongs to a head spread over its channels; it comes back as one number per head. Time steps
    are clamped to the layer's limits, which transformers does for whole sequences only.

    Args:
        call: of the layer.
        state: (batch, channels, d_state) or (batch, heads, head_dim, d_state).
        x, z: (batch, channels) or (batch, heads, head_dim).
        dt: like ``x``, the same over a head.
        A: (channels, d_state) or (heads, head_dim, d_state), the same over a head.
        B, C: (batch, d_state) or (batch, groups, d_state).
        D, dt_bias: (channels) or (heads, head_dim), the same over a head.
        dt_softplus: pass ``dt`` through a softplus.
        unused: others.
    """
    if state.dim() == 3:
        return selective_scan_update(call, state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    for name, t, axes in (("dt", dt, 1), ("A", A, 2), ("dt_bias", dt_bias, 1)):
        if t is not None and any(t.shape[-i] > 1 and t.stride(-i) != 0 for i in range(1, axes + 1)):
            raise Unserved(f"{name} that differs inside a head")
    y, after = ssd_step(
        x,
        dt[..., 0],
        A[..., 0, 0],
        B,
        C,
        D,
        z,
        state=state.clone(),
        dt_bias=None if dt_bias is None else dt_bias[..., 0],
        dt_softplus=dt_softplus,
        dt_limit=getattr(call.layer, "time_step_limit", None),
    )
    state.copy_(after)
    return y
