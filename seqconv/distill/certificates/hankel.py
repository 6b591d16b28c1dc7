"""Hankel operators of impulse responses: products by FFT, leading singular values and subspaces.

``Gamma[i, j] = g[i + j]`` with ``g[t] = h[1 + t]``. The rank of Gamma is the order of the smallest recurrence
(Kronecker); ``sigma_{d+1}`` bounds from below the error of every recurrence of order d (Adamjan, Arov, Krein).
A finite section has Ritz values not above the true singular values, so bounds taken from it remain bounds.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..fitting.orthonormal import orthonormalise
from ..fitting.parallel import in_blocks

DENSE = 96
"""Sections up to this size are diagonalised whole."""

WIDTH, STEPS = 8, 6
"""Vectors of a Krylov block, and blocks at least."""

BLOCK = 1 << 19
"""Numbers in the Krylov basis of channels that are taken together."""


ORTHONORMAL, INDEPENDENT = 1e-10, 1e-3
"""Largest error of the inner products of a basis, and smallest share of a direction that is kept when it has more."""


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


def leading_subspace(g: Float[Tensor, "channels length"], k: int) -> Subspace:
    """The k leading singular values and vectors of the half section, which is square and symmetric.

    Args:
        g: impulse responses without lag 0.
        k: how many; at most half the length.
    """
    rows = (g.shape[1] + 1) // 2
    k = min(k, rows)
    columns = WIDTH * max(STEPS, -(-2 * k // WIDTH) + 4)
    if rows <= max(DENSE, columns):
        values, vectors = torch.linalg.eigh(hankel(g[:, : 2 * rows - 1], rows))
        return _largest(values, vectors.transpose(1, 2), k)
    parts = in_blocks(lambda few: _krylov(g[few], rows, columns, k), len(g), columns * rows, numbers=BLOCK)
    return Subspace(torch.cat([p.values for p in parts]), torch.cat([p.vectors for p in parts]))


def _krylov(g: Float[Tensor, "channels length"], rows: int, columns: int, k: int) -> Subspace:
    """Rayleigh-Ritz on the block Krylov space of a random start, every block orthogonal to all before it.

    Against subspace iteration no product is thrown away: a third of them finds the same values more closely.
    """
    size = 1 << (2 * rows - 2).bit_length()
    spectrum = torch.fft.rfft(g[:, : 2 * rows - 1], n=size)
    start = torch.randn(1, WIDTH, rows, dtype=g.dtype, generator=torch.Generator().manual_seed(0))
    block = orthonormalise(start.expand(len(g), -1, -1))[0]
    basis, ritz = g.new_empty(len(g), columns, rows), g.new_zeros(len(g), columns, columns)
    for end in range(WIDTH, columns + 1, WIDTH):
        basis[:, end - WIDTH : end] = block
        known = basis[:, :end]
        image = hankel_product(spectrum, block, size)
        ritz[:, end - WIDTH : end, :end] = image @ known.transpose(1, 2)
        image.baddbmm_(ritz[:, end - WIDTH : end, :end], known, alpha=-1)
        block = orthonormalise(image)[0]
        block = orthonormalise(block.baddbmm_(block @ known.transpose(1, 2), known, alpha=-1))[0]
    _restore_orthonormality(basis, ritz, spectrum, size)
    values, rotation = torch.linalg.eigh(ritz)  # reads the lower triangle
    order = values.abs().argsort(dim=1, descending=True)[:, :k]
    taken = rotation.gather(2, order[:, None].expand(-1, columns, -1))
    return Subspace(values.abs().gather(1, order), taken.transpose(1, 2) @ basis)


def _restore_orthonormality(basis: Tensor, ritz: Tensor, spectrum: Tensor, size: int) -> None:
    """Replace bases that are not orthonormal by smaller ones that are, in place.

    Where the Krylov space is exhausted (a Hankel matrix of low rank, or with few distinct singular values, as that of a
    pure delay), further blocks are rounding errors, and Ritz values of a basis that counts a direction twice exceed
    the singular values. Ritz values of any orthonormal basis, however small, are lower bounds.
    """
    gram = basis @ basis.transpose(1, 2)
    lengths = gram.diagonal(dim1=1, dim2=2).round()  # a direction that was left out is zero
    wrong = ((gram - torch.diag_embed(lengths)).abs().amax((1, 2)) > ORTHONORMAL).nonzero().flatten()
    if not len(wrong):
        return
    shares, directions = torch.linalg.eigh(gram[wrong])
    kept = torch.where(shares > INDEPENDENT, shares.clamp_min(INDEPENDENT).rsqrt(), 0.0)
    fewer = (directions * kept[:, None]).transpose(1, 2) @ basis[wrong]
    basis[wrong] = fewer
    ritz[wrong] = hankel_product(spectrum[wrong], fewer, size) @ fewer.transpose(1, 2)


def _largest(values: Tensor, vectors: Float[Tensor, "channels any rows"], k: int) -> Subspace:
    order = values.abs().argsort(dim=1, descending=True)[:, :k]
    taken = vectors.gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2]))
    return Subspace(values.abs().gather(1, order), taken)
