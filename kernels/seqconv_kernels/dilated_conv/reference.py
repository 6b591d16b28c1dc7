"""Readable form of :func:`seqconv_kernels.dilated_conv`: one shifted product per tap, any floating dtype."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core.native import transformed
from .._core.precision import accumulation_dtype
from .spec import Inputs, StepInputs, histories

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


def dilated_conv(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """a_{i+1} = act(sum_k w_{ik} a_i[t - k d_i]), each level after its own history; their inputs if kept."""
    x, dtype = inputs.x, accumulation_dtype(inputs.x, inputs.weight)
    a, after = x.to(dtype), []
    levels = zip(inputs.weight.to(dtype), inputs.dilations, histories(inputs), strict=True)
    for i, (taps, dilation, past) in enumerate(levels):
        a = _between(a, i, inputs.activation)
        if inputs.return_history:
            after.append(_extended(past, a, (taps.shape[1] - 1) * dilation)[:, a.shape[1] :])
        a = level(a, taps, dilation, past)
    return a.to(x.dtype), torch.cat(after, dim=1) if inputs.return_history else a.new_empty(0)


def level(a: Tensor, taps: Tensor, dilation: int, past: Tensor | None) -> Tensor:
    """sum_k w_k a[t - k d] after the level's own history, zero if ``None``."""
    length, reach = a.shape[1], taps.shape[1] - 1
    extended = _extended(past, a, reach * dilation)
    y = taps[:, 0] * a
    for k in range(1, reach + 1):
        start = (reach - k) * dilation
        y = y + taps[:, k] * extended[:, start : start + length]
    return y


def dilated_conv_step(inputs: StepInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same for one input; tap k of level i is k d_i before the position in its ring."""
    x, weight, dilations, activation, rings, position = inputs
    dtype = accumulation_dtype(x, weight)
    a, after = x.to(dtype), []
    for i, (taps, dilation, ring) in enumerate(zip(weight.to(dtype), dilations, rings, strict=True)):
        a = _between(a, i, activation)
        new, a = a, taps[:, 0] * a
        if ring.shape[1]:
            lags = torch.arange(1, taps.shape[1], device=x.device) * dilation
            before = ring.gather(1, _index(position[:, None] - lags, ring))
            a = a + (taps[:, 1:].T * before.to(dtype)).sum(1)
            ring = _write(ring, new, position)
        after.append(ring)
    return a.to(x.dtype), tuple(after)


def unroll_rings(rings: Sequence[Tensor], position: Tensor) -> tuple[Tensor, ...]:
    """Each ring from its oldest input on."""
    return tuple(
        ring.gather(1, _index(position[:, None] + torch.arange(ring.shape[1], device=ring.device), ring))
        if ring.shape[1]
        else ring
        for ring in rings
    )


def _extended(past: Tensor | None, a: Tensor, reach: int) -> Tensor:
    past = a.new_zeros(a.shape[0], reach, a.shape[2]) if past is None else past
    return torch.cat([past, a], dim=1)


def _between(a: Tensor, level: int, activation: str | None) -> Tensor:
    return a if level == 0 or activation is None else ACTIVATIONS[activation](a)


def _index(time: Tensor, ring: Tensor) -> Tensor:
    return (time % ring.shape[1])[..., None].expand(-1, -1, ring.shape[2])


def _write(ring: Tensor, new: Tensor, position: Tensor) -> Tensor:
    where, value = _index(position[:, None], ring), new[:, None].to(ring.dtype)
    recorded = torch.is_grad_enabled() and (ring.requires_grad or value.requires_grad)
    if recorded or (not torch.compiler.is_compiling() and transformed()):
        return ring.scatter(1, where, value)
    return ring.scatter_(1, where, value)
