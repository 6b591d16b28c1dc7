"""The selective scan with all its states laid out, on the diagonal scan: for the gradients of gradients.

Equation: ``h = linear_scan(exp(dt A), dt B u)``, ``y = (C h + D u) silu(z)``, in tensors of (batch, length, channels,
d_state).
"""

import torch
from torch import Tensor

from ..linear_scan import linear_scan
from .reference import gated_output, state_dtype, time_step


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    dt = time_step(delta, delta_bias, delta_softplus, state_dtype(u, A, initial_state))[..., None]
    decay, inflow = torch.exp(dt * A), dt * u[..., None] * _per_channel(B, u)
    states = linear_scan(decay, inflow, initial_state=initial_state, return_final_state=True, cu_seqlens=cu_seqlens)
    h, final_state = states
    return gated_output((h * _per_channel(C, u)).sum(-1), u, D, z), final_state


def _per_channel(weights: Tensor, u: Tensor) -> Tensor:
    """(batch, length, [groups,] d_state) to (batch, length, channels or 1, d_state)."""
    if weights.dim() == 3:
        return weights[:, :, None]
    return weights.repeat_interleave(u.shape[2] // weights.shape[2], dim=2)
