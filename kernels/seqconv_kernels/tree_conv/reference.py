"""Readable form of :func:`seqconv_kernels.tree_conv`: one shifted product per tap, any floating dtype."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


def tree_conv(
    x: Tensor, weight: Tensor, dilations: Sequence[int], activation: str | None, history: Sequence[Tensor] | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """a_{i+1} = act(sum_k w_{ik} a_i[t - k d_i]), each level behind its own history."""
    length, reach = x.shape[1], weight.shape[2] - 1
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    a, after = x.to(dtype), []
    for i, (taps, dilation) in enumerate(zip(weight.to(dtype), dilations, strict=True)):
        a = _between(a, i, activation)
        past = a.new_zeros(a.shape[0], reach * dilation, a.shape[2]) if history is None else history[i].to(dtype)
        heard = torch.cat([past, a], dim=1)
        after.append(heard[:, length:])
        a = taps[:, 0] * a
        for k in range(1, reach + 1):
            start = (reach - k) * dilation
            a = a + taps[:, k] * heard[:, start : start + length]
    return a.to(x.dtype), tuple(after)


def tree_conv_step(
    x: Tensor,
    weight: Tensor,
    dilations: Sequence[int],
    activation: str | None,
    rings: Sequence[Tensor],
    position: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same for one input; tap k of level i stands k d_i behind the position in its ring."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    a, after = x.to(dtype), []
    for i, (taps, dilation, ring) in enumerate(zip(weight.to(dtype), dilations, rings, strict=True)):
        a = _between(a, i, activation)
        new, a = a, taps[:, 0] * a
        if ring.shape[1]:
            lags = torch.arange(1, taps.shape[1], device=x.device) * dilation
            heard = ring.gather(1, _index(position[:, None] - lags, ring))
            a = a + (taps[:, 1:].T * heard.to(dtype)).sum(1)
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


def _between(a: Tensor, level: int, activation: str | None) -> Tensor:
    return a if level == 0 or activation is None else ACTIVATIONS[activation](a)


def _index(time: Tensor, ring: Tensor) -> Tensor:
    return (time % ring.shape[1])[..., None].expand(-1, -1, ring.shape[2])


def _write(ring: Tensor, new: Tensor, position: Tensor) -> Tensor:
    where, value = _index(position[:, None], ring), new[:, None].to(ring.dtype)
    if torch.is_grad_enabled() and (ring.requires_grad or value.requires_grad):
        return ring.scatter(1, where, value)
    return ring.scatter_(1, where, value)
