"""Two-level form of :func:`seqconv_kernels.linear_scan`: all chunks side by side, then the states between them.

Within every chunk the scan from a zero state and the running product of the factors go row by row; a loop over the
chunks joins them: ``h[c, i] = local[c, i] + product[c, i] h[c-1, last]``. With chunks of about the square root of
the length, both loops are that short. The gradient is the same scan backwards:
``dx[t] = dh[t] + conj(a[t+1]) dx[t+1]``, ``da[t] = dx[t] conj(h[t-1])``.
"""

from typing import Any

import torch
from torch import Tensor


def linear_scan(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """Scan along axis 1."""
    h: Tensor = _Scan.apply(a, x, state)
    return h


class _Scan(torch.autograd.Function):
    """The scan, whose backward pass is a scan."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
        return _scan(a, x, state)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        a, _, state = inputs
        ctx.save_for_backward(a, state, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, state, h = ctx.saved_tensors
        later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1).conj()
        dx = _Scan.apply(later.flip(1), grad.flip(1), torch.zeros_like(state)).flip(1)
        before = torch.cat([state[:, None], h[:, :-1]], dim=1)
        return dx * before.conj(), dx, dx[:, 0] * a[:, 0].conj()


def _scan(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    length = x.shape[1]
    rows = 1 << (length.bit_length() // 2)
    missing = -length % rows
    if missing:
        a, x = (torch.cat([t, torch.zeros_like(t[:, :1]).expand(-1, missing, *t.shape[2:])], dim=1) for t in (a, x))
    a, x = (t.unflatten(1, (-1, rows)).contiguous() for t in (a, x))
    h, product = x.clone(), a.clone()
    for i in range(1, rows):
        h[:, :, i] += a[:, :, i] * h[:, :, i - 1]
        product[:, :, i] *= product[:, :, i - 1]
    for c in range(x.shape[1]):
        h[:, c] += product[:, c] * state[:, None]
        state = h[:, c, -1]
    return h.flatten(1, 2)[:, :length]
