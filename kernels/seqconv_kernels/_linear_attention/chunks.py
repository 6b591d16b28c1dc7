"""Chunked matrix-product forms of decaying recurrences: what gated linear attention, SSD and the delta rule share.

Tensors here are ``(batch, group, repeat, chunk, row, width)``, where axes of size one broadcast. Decays enter as
factors ``a_t``, not as logarithms, and are only ever multiplied: a sum of logarithms taken as the difference of two
running sums loses digits and turns a reset (``a_t = 0``) into ``inf - inf``; a product does neither. Nothing is
divided by a decay either, so every factor of every product is as small as the decay itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .._core.non_finite import set_apart

CHUNK = 64


def chunk_length(length: int, longest: int = CHUNK) -> int:
    """The power of two that chunks a sequence: at most ``longest``, no longer than it takes."""
    chunk = 1
    while chunk < length and 2 * chunk <= longest:
        chunk *= 2
    return chunk


def split(x: Tensor, chunk: int, fill: float = 0.0) -> Tensor:
    """``(..., length, width)`` to ``(..., chunk, row, width)``, filled up on the right."""
    missing = -x.shape[-2] % chunk
    if missing:
        x = torch.nn.functional.pad(x, (0, 0, 0, missing), value=fill)
    rows: Tensor = x.unflatten(-2, (-1, chunk))
    return rows


class Decayed(NamedTuple):
    """Products of a chunk with the decay between their rows.

    Attributes:
        scores: ``sum_d q[i, d] k[j, d] prod_{j < s <= i} a[s, d]`` for ``j <= i``, zero above the diagonal.
        q: ``q[i] prod_{s <= i} a[s]``: what row i sees of the state that enters the chunk.
        k: ``k[j] prod_{s > j} a[s]``: what row j leaves in the state that the chunk hands on.
        total: ``prod_s a[s]``, with one row.
    """

    scores: Tensor
    q: Tensor
    k: Tensor
    total: Tensor


def decayed(q: Tensor, k: Tensor, a: Tensor, *, diagonal: bool = True) -> Decayed:
    """Build the products by joining blocks of rows pairwise; without ``diagonal`` a row does not see itself."""
    own = (q * k).sum(-1)
    return _joined(q * a, k, a, own if diagonal else torch.zeros_like(own))


def decayed_before(q: Tensor, k: Tensor, a: Tensor) -> Decayed:
    """The same where a row reads the state before its own decay: ``prod_{j < s < i} a[s]``, and no diagonal.

    ``q`` may have further leading axes, as many reads of the same keys.
    """
    return _joined(q.expand(*q.shape[: q.dim() - a.dim()], *a.shape[:-1], -1), k, a, torch.zeros_like((q * k).sum(-1)))


def _joined(q: Tensor, k: Tensor, a: Tensor, own: Tensor) -> Decayed:
    rows = q.shape[-2]
    scores = own[..., None, None]
    q, k, total = (x.unsqueeze(-2) for x in (q, k, a))
    for _ in range(rows.bit_length() - 1):
        q1, q2 = _halves(q)
        k1, k2 = _halves(k)
        total1, total2 = _halves(total)
        scores = _join(*_halves(scores), torch.einsum("...id,...jd->...ij", q2, k1))
        q = torch.cat([q1, q2 * total1], dim=-2)
        older = k1 * total2
        k = torch.cat([older, k2.expand_as(older)], dim=-2)
        total = total1 * total2
    return Decayed(*(x.squeeze(-3) for x in (scores, q, k, total)))


def lower_product(scores: Tensor, values: Tensor) -> Tensor:
    """``scores @ values`` for scores (..., row, row) that are zero above the diagonal.

    A value that is not finite makes its own row and those after it NaN, and no row before it, although a matrix
    product multiplies it by the zeros there: ``0 x`` sums up to what is added to the rows, zero for finite values.
    """
    finite, non_finite = set_apart(values, -2)
    return torch.einsum("...ij,...jv->...iv", scores, finite) + non_finite


def carry(state: Tensor, decay: Tensor, inflow: Tensor) -> tuple[Tensor, Tensor]:
    """States that enter every chunk, and the one after the last: ``S <- decay[c] S + inflow[c]`` along axis 3."""
    entering = []
    for a, new in zip(decay.unbind(3), inflow.unbind(3), strict=True):
        entering.append(state)
        state = a * state + new
    return torch.stack(entering, dim=3), state


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second of each pair of neighbouring blocks."""
    pairs = x.unflatten(-3, (-1, 2))
    return pairs[..., 0, :, :], pairs[..., 1, :, :]


def _join(first: Tensor, second: Tensor, below: Tensor) -> Tensor:
    """The block lower triangular matrix ``[[first, 0], [below, second]]``."""
    upper = torch.cat([first.expand_as(below), torch.zeros_like(below)], dim=-1)
    lower = torch.cat([below, second.expand_as(below)], dim=-1)
    return torch.cat([upper, lower], dim=-2)
