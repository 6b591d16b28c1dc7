"""Poles of a recurrence that imitates an impulse response, by Hankel matrices and by linear prediction.

All take ``g``, the responses after the exact head, and return ``order`` poles per channel, closed under
conjugation. Sources: Kung 1978 (half section), Prony (linear prediction), Moore 1981 (balanced truncation), Juang and
Pappa 1985 (eigensystem realisation); compared on trained filters in ``docs/distillation.md``.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ..certificates.hankel import hankel, hankel_product, leading_subspace

LARGEST = 1 - 1e-6
"""Largest magnitude of a pole."""


def kung(vectors: Float[Tensor, "channels k rows"], order: int) -> Complex[Tensor, "channels order"]:
    """Poles from the shift invariance of the leading singular vectors: ``U[:-1] A = U[1:]``.

    The vectors are orthonormal, so the pseudo-inverse of ``U[:-1]`` differs from its transpose by the last row alone.
    """
    u = vectors[:, :order]
    last = u[:, :, -1:]
    shifted = u[:, :, :-1] @ u[:, :, 1:].transpose(1, 2)
    weight = (1 - (last * last).sum(1, keepdim=True)).clamp_min(torch.finfo(u.dtype).eps)
    return stable(_eigenvalues(shifted + last @ (last.transpose(1, 2) @ shifted) / weight))


def tall_window(g: Float[Tensor, "channels length"], order: int, rows: int) -> Complex[Tensor, "channels order"]:
    """As :func:`kung` from a section with few rows, which weights early and late taps alike."""
    vectors = []
    for piece in g.split(max(1, (1 << 24) // (rows * g.shape[1]))):
        section = hankel(piece, rows)
        found = torch.linalg.eigh(section @ section.transpose(1, 2)).eigenvectors
        vectors.append(found.flip(2).transpose(1, 2))
    return kung(torch.cat(vectors), order)


def balanced(g: Float[Tensor, "channels length"], order: int) -> Complex[Tensor, "channels order"]:
    """Poles of the balanced truncation of the responses taken as zero beyond their end: stable by construction."""
    padded = torch.nn.functional.pad(g, (0, g.shape[1] - 1))
    u = leading_subspace(padded, order).vectors
    return stable(_eigenvalues(u[:, :, :-1] @ u[:, :, 1:].transpose(1, 2)))


def era(g: Float[Tensor, "channels length"], order: int) -> Complex[Tensor, "channels order"]:
    """Eigensystem realisation: ``S^-1/2 U' Gamma_1 V S^-1/2`` of the half section and the one that is a step later.

    The section is symmetric, so U and V differ by signs and the eigenvalues are those of ``Lambda^-1 U' Gamma_1 U``.
    """
    rows = max(1, g.shape[1] // 2)
    g = torch.nn.functional.pad(g, (0, 1))[:, : 2 * rows]  # a single tap is followed by zero
    u = leading_subspace(g[:, :-1], order).vectors
    size = 1 << (2 * rows - 2).bit_length()
    now, later = (hankel_product(torch.fft.rfft(part, n=size), u, size) for part in (g[:, :-1], g[:, 1:]))
    ritz = (now * u).sum(2)
    ritz = torch.where(ritz.abs() > 0, ritz, torch.finfo(g.dtype).tiny)
    return stable(_eigenvalues((later @ u.transpose(1, 2)) / ritz[:, :, None]))


def prony(g: Float[Tensor, "channels length"], order: int) -> Complex[Tensor, "channels order"]:
    """Roots of the least-squares linear predictor of that order."""
    section = hankel(g, order + 1).transpose(1, 2)
    predictor = torch.linalg.lstsq(section[:, :, :-1], section[:, :, -1:], driver="gelsd").solution[:, :, 0]
    companion = torch.diag_embed(torch.ones(g.shape[0], order - 1, dtype=g.dtype), offset=1)
    companion[:, -1] = predictor
    return stable(_eigenvalues(companion))


def stable(poles: Complex[Tensor, "channels order"]) -> Complex[Tensor, "channels order"]:
    """Poles outside the unit circle reflected into it, and none closer to it than :data:`LARGEST`."""
    magnitude = poles.abs()
    reflected = torch.where(magnitude > 1, 1 / magnitude.clamp_min(1), magnitude).clamp_max(LARGEST)
    return torch.polar(reflected, poles.angle())


def _eigenvalues(matrices: Float[Tensor, "channels order order"]) -> Complex[Tensor, "channels order"]:
    """Eigenvalues; a channel whose matrix is not finite or does not converge gets poles spread on the real axis."""
    finite = matrices.isfinite().all(dim=(1, 2))
    safe = torch.where(finite[:, None, None], matrices, torch.zeros_like(matrices))
    try:
        found: Tensor = torch.linalg.eigvals(safe)
        return found
    except RuntimeError:
        return torch.stack([_eigenvalues_of_one(m) for m in safe])


def _eigenvalues_of_one(matrix: Float[Tensor, "order order"]) -> Complex[Tensor, " order"]:
    try:
        found: Tensor = torch.linalg.eigvals(matrix)
        return found
    except RuntimeError:
        return torch.linspace(0.1, 0.9, matrix.shape[0], dtype=matrix.dtype).to(torch.complex128)
