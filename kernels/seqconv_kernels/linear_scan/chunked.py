"""Two-level form of :func:`seqconv_kernels.linear_scan`: all chunks in parallel, then the states between them.

Within every chunk the scan from a zero state and the running product of the factors go row by row; a loop over the
chunks joins them: ``h[c, i] = local[c, i] + product[c, i] h[c-1, last]``. With chunks of about the square root of
the length, both loops are that short. The gradient is the same scan backwards:
``dx[t] = dh[t] + conj(a[t+1]) dx[t+1]``, ``da[t] = dx[t] conj(h[t-1])``.
"""

from typing import Any

import torch
from torch import Tensor

from .._core.operator.sizes import is_exporting_to_onnx
from .reference import scan_batch
from .spec import Inputs


def linear_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The states and the final ones."""
    return scan_batch(_doubled if is_exporting_to_onnx() else scan, inputs)


def _doubled(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """The scan over windows that double, in operations that ONNX has."""
    x = torch.cat([x[:, :1] + a[:, :1] * state[:, None], x[:, 1:]], dim=1)
    shift = 1
    while shift < x.shape[1]:
        x = torch.cat([x[:, :shift], x[:, shift:] + a[:, shift:] * x[:, :-shift]], dim=1)
        a = torch.cat([a[:, :shift], a[:, shift:] * a[:, :-shift]], dim=1)
        shift *= 2
    return x


@torch.library.custom_op("seqconv_kernels::linear_scan", mutates_args=())
def scan(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """Scan along axis 1; all tensors of one dtype."""
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
    return h.flatten(1, 2)[:, :length].contiguous()


@scan.register_fake
def _(a: Tensor, x: Tensor, state: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    a, _, state = inputs
    ctx.save_for_backward(a, state, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, state, h = ctx.saved_tensors
    later = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1).conj().resolve_conj()
    dx = scan(later.flip(1), grad.flip(1), torch.zeros_like(state)).flip(1)
    before = torch.cat([state[:, None], h[:, :-1]], dim=1)
    return dx * before.conj(), dx, dx[:, 0] * a[:, 0].conj()


scan.register_autograd(_backward, setup_context=_save)


@scan.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Tensor, int]:
    """An axis of any position becomes one more axis of channels."""
    moved = [
        t.unsqueeze(-1).expand(*t.shape, info.batch_size) if axis is None else t.movedim(axis, -1)
        for t, axis in zip(tensors, in_dims, strict=True)
    ]
    return scan(*moved), moved[1].dim() - 1
