"""Readable form of :func:`seqconv_kernels.linear_scan`: token by token, any floating or complex dtype."""

from collections.abc import Callable

import torch
from torch import Tensor

from .._core.packing import padded
from .._core.precision import accumulation_dtype
from .spec import Inputs


def linear_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + x_t."""
    return scan_batch(_scan, inputs)


def linear_scan_step(inputs: Inputs) -> Tensor:
    """One step of the recurrence: the next state, which is the output."""
    a, x, state, _ = inputs
    assert state is not None
    dtype = accumulation_dtype(a, x, state)
    return a.to(dtype) * state.to(dtype) + x.to(dtype)


def scan_batch(run: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs) -> tuple[Tensor, Tensor]:
    """States and final states by ``run(a, x, state)``, which takes a batch of one dtype."""

    @padded("x", a=1.0)
    def scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
        a, x, state, _ = inputs
        dtype = accumulation_dtype(a, x, state)
        state = torch.zeros_like(x[:, 0], dtype=dtype) if state is None else state.to(dtype)
        h = run(a.to(dtype), x.to(dtype), state)
        return h, h[:, -1].clone()  # a copy, which does not keep all other states in memory

    return scan(inputs)


def _scan(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    states = []
    for a_t, x_t in zip(a.unbind(1), x.unbind(1), strict=True):
        state = a_t * state + x_t
        states.append(state)
    return torch.stack(states, dim=1)
