"""Readable form of :func:`seqconv_kernels.diagonal_step`, any dtype and device."""

import torch
from torch import Tensor

from .._core.checks import check_floating
from .spec import Inputs


def diagonal_step(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None]:
    """X += offsets x + entering; y = Re(sum residues x) + sum_s head_s u_{t-s} + skip u."""
    u, offsets, residues, head, skip, hidden, past = inputs
    check_floating("diagonal_step", {"u": u, "head": head, "past": past, "skip": skip}, hidden.device)
    v = u.to(residues.real.dtype if residues.is_complex() else residues.dtype)
    recent = v[:, None] if past is None else torch.cat([past, v[:, None]], dim=1)
    hidden = torch.addcmul(hidden + recent[:, 0, :, None], offsets, hidden)
    y = (residues * hidden).sum(-1).real
    if head is not None:
        y = y + torch.einsum("btc,ct->bc", recent[:, 1:], head.flip(1))
    if skip is not None:
        y = y + skip * v
    return y.to(u.dtype), hidden, None if past is None else recent[:, 1:]
