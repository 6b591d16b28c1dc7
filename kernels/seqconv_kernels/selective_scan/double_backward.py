"""The selective scan with all its states laid out, on the diagonal scan: for the gradients of gradients.

Equation: ``h = linear_scan(exp(dt A), dt B u)``, ``y = (C h + D u) silu(z)``, in tensors of (batch, length, channels,
d_state).
"""

import torch
from torch import Tensor

from .._core.packing import reversible
from ..linear_scan import linear_scan
from .reference import gated_output, state_dtype, time_step
from .spec import TOKENS, Inputs


@reversible(*TOKENS)
def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The output and the final state."""
    u, A, cu_seqlens = inputs.u, inputs.A, inputs.cu_seqlens
    dt = time_step(inputs, state_dtype(inputs))[..., None]
    decay, inflow = torch.exp(dt * A), dt * u[..., None] * _per_channel(inputs.B, u)
    h, final_state = linear_scan(
        decay, inflow, initial_state=inputs.initial_state, return_final_state=True, cu_seqlens=cu_seqlens
    )
    return gated_output((h * _per_channel(inputs.C, u)).sum(-1), inputs), final_state


def _per_channel(weights: Tensor, u: Tensor) -> Tensor:
    """(batch, length, [groups,] d_state) to (batch, length, channels or 1, d_state)."""
    if weights.dim() == 3:
        return weights[:, :, None]
    return weights.repeat_interleave(u.shape[2] // weights.shape[2], dim=2)
