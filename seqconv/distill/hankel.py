"""Hankel operators of impulse responses: products by FFT, leading singular values and subspaces.

``Gamma[i, j] = g[i + j]`` with ``g[t] = h[1 + t]``. The rank of Gamma is the order of the smallest recurrence
(Kronecker); ``sigma_{d+1}`` bounds from below the error of every recurrence of order d (Adamjan, Arov, Krein).
A finite section has Ritz values not above the true singular values, so bounds taken from it remain bounds.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .orthonormal import orthonormalise

DENSE = 96
"""Sections up to this size are diagonalised whole."""

BLOCK = 1 << 22
"""Numbers that one block of channels may put into a product."""


class Subspace(NamedTuple):
    """Leading singular values, largest first, and the matching left singular vectors of the half section."""

    values: Float[Tensor, "channels k"]
    vectors: Float[Tensor, "channels k rows"]


def hankel(g: Float[Tensor, "channels length"], rows: int) -> Float[Tensor, "channels rows columns"]:
    """The section with that many rows that uses every entry of ``g``."""
    section: Tensor = g.unfold(1, g.shape[1] - rows + 1, 1)
    return section


def hankel_product(
    spectrum: Tensor, x: Float[Tensor, "channels k columns"], size: int
) -> Float[Tensor, "channels k columns"]:
    """``x @ Gamma`` for a square section as correlations, with ``spectrum = rfft(g, size)``."""
    correlated = torch.fft.rfft(x, n=size).conj().mul_(spectrum[:, None])
    product: Tensor = torch.fft.irfft(correlated, n=size)[..., : x.shape[2]]
    return product


def leading_subspace(g: Float[Tensor, "channels length"], k: int, *, passes: int = 6) -> Subspace:
    """The k leading singular values and vectors of the half section, which is square and symmetric.

    Args:
        g: impulse responses without lag 0.
        k: how many; at most half the length.
        passes: subspace iterations behind the first product.
    """
    rows = (g.shape[1] + 1) // 2
    k = min(k, rows)
    if rows <= DENSE:
        values, vectors = torch.linalg.eigh(hankel(g[:, : 2 * rows - 1], rows))
        return _largest(values, vectors.transpose(1, 2), k)
    width = min(rows, k + max(8, k // 2))
    step = max(1, BLOCK // (width * 2 * rows))
    parts = [_largest(*_iterate(piece, rows, width, passes), k) for piece in g.split(step)]
    return Subspace(torch.cat([p.values for p in parts]), torch.cat([p.vectors for p in parts]))


def full_singular_values(h: Float[Tensor, "channels length"]) -> Float[Tensor, "channels rank"]:
    """All Hankel singular values of the responses taken as zero beyond their end (cubic in the length)."""
    padded = torch.nn.functional.pad(h[:, 1:], (0, h.shape[1] - 2))
    values: Tensor = torch.linalg.eigvalsh(hankel(padded, h.shape[1] - 1))
    return values.abs().sort(descending=True).values


def _iterate(g: Tensor, rows: int, width: int, passes: int) -> tuple[Tensor, Tensor]:
    size = 1 << (2 * rows - 1).bit_length()
    spectrum = torch.fft.rfft(g[:, : 2 * rows - 1], n=size)
    start = torch.randn(1, width, rows, dtype=g.dtype, generator=torch.Generator().manual_seed(0))
    basis = start.expand(g.shape[0], -1, -1)
    for _ in range(passes):  # the span is all that is handed on
        basis = orthonormalise(hankel_product(spectrum, basis, size), passes=1)[0]
    basis = orthonormalise(hankel_product(spectrum, basis, size))[0]
    ritz = hankel_product(spectrum, basis, size) @ basis.transpose(1, 2)
    values, rotation = torch.linalg.eigh((ritz + ritz.transpose(1, 2)) / 2)
    return values, rotation.transpose(1, 2) @ basis


def _largest(values: Tensor, vectors: Float[Tensor, "channels any rows"], k: int) -> Subspace:
    order = values.abs().argsort(dim=1, descending=True)[:, :k]
    taken = vectors.gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2]))
    return Subspace(values.abs().gather(1, order), taken)
