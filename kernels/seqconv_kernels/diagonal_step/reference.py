"""Readable form of :func:`seqconv_kernels.diagonal_step`, any dtype and device."""

import torch
from torch import Tensor

from .._core.checks import check_floating


def diagonal_step(
    u: Tensor,
    offsets: Tensor,
    residues: Tensor,
    head: Tensor | None,
    skip: Tensor | None,
    hidden: Tensor,
    past: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """X += offsets x + entering; y = Re(sum residues x) + sum_s head_s u_{t-s} + skip u."""
    check_floating("diagonal_step", {"u": u, "head": head, "past": past, "skip": skip}, hidden.device)
    v = u.to(residues.real.dtype if residues.is_complex() else residues.dtype)
    heard = v[:, None] if past is None else torch.cat([past, v[:, None]], dim=1)
    hidden = torch.addcmul(hidden + heard[:, 0, :, None], offsets, hidden)
    y = (residues * hidden).sum(-1).real
    if head is not None:
        y = y + torch.einsum("btc,ct->bc", heard[:, 1:], head.flip(1))
    if skip is not None:
        y = y + skip * v
    return y.to(u.dtype), hidden, None if past is None else heard[:, 1:]
