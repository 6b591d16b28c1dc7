"""Readable form of :func:`seqconv_kernels.linear_scan`: token by token, any floating or complex dtype."""

import torch
from torch import Tensor


def linear_scan(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """H <- a_t h + x_t."""
    states = []
    for a_t, x_t in zip(a.unbind(1), x.unbind(1), strict=True):
        state = a_t * state + x_t
        states.append(state)
    return torch.stack(states, dim=1)
