"""Poles by rational approximation of the frequency response: the AAA algorithm, for comparison.

``H(z) ~ sum_j w_j f_j / (z - z_j) / sum_j w_j / (z - z_j)`` interpolates the response ``f_j = H(z_j)`` at ``order + 1``
points of the unit circle, chosen greedily where the error is largest; the weights w minimise the linearised error
``sum_j (H(z) - f_j) / (z - z_j) w_j`` over all points. Points and weights come in conjugate pairs, so the poles, which
are the zeros of the denominator, do too. They may lie outside the circle and are reflected then.
Source: Nakatsukasa, Sète and Trefethen 2018, SIAM J. Sci. Comput. 40 (arXiv 1612.00337).
"""

import math

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from .poles import stable

POINTS_PER_TAP = 4
"""Frequencies on the whole circle, at least."""


def aaa(g: Float[Tensor, "channels length"], order: int) -> Complex[Tensor, "channels order"]:
    """Poles of the rational function of that order; ``g`` as for the other methods."""
    size = 1 << (POINTS_PER_TAP * max(g.shape[1], order) - 1).bit_length()
    values = torch.fft.rfft(g, n=size)
    angle = 2 * math.pi / size * torch.arange(size // 2 + 1, dtype=torch.float64)
    z = torch.polar(torch.ones_like(angle), angle)
    ends = [0] if order % 2 == 0 else [0, size // 2]
    support = torch.tensor(ends).expand(len(g), -1)
    fit = _weights(values, z, support, len(ends))
    for _ in range((order + 1 - len(ends)) // 2):
        error = (values - _evaluated(z, *fit)).abs().nan_to_num(0.0)
        error[:, [0, -1]] = 0  # pairs come from the inside of the half circle
        support = torch.cat([support, error.scatter(1, support, 0.0).argmax(1, keepdim=True)], dim=1)
        fit = _weights(values, z, support, len(ends))
    return stable(_zeros(fit[0], fit[2], len(ends)))


def _evaluated(z: Tensor, points: Tensor, f: Tensor, weights: Tensor) -> Complex[Tensor, "channels points"]:
    """The rational function, away from its support."""
    cauchy = 1 / _distances(z, points)
    fitted: Tensor = (cauchy @ (weights * f)[:, :, None]) / (cauchy @ weights[:, :, None])
    return fitted[:, :, 0]


def _both_halves(upper: Tensor, f: Tensor, ends: int) -> tuple[Tensor, Tensor]:
    """Real points first, then those of the upper half and their conjugates."""
    return tuple(torch.cat([t, t[:, ends:].conj()], dim=1) for t in (upper, f))  # type: ignore[return-value]


def _distances(z: Complex[Tensor, " points"], support: Complex[Tensor, "channels k"]) -> Tensor:
    """``z - z_j``, and infinity at the points of the support themselves."""
    distance = z[None, :, None] - support[:, None]
    return torch.where(distance.abs() < 1e-12, torch.inf, distance)


def _weights(
    values: Complex[Tensor, "channels points"],
    z: Complex[Tensor, " points"],
    support: Int[Tensor, "channels k"],
    ends: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Points, their values, and the smallest right singular vector of the Loewner matrix, in conjugate pairs."""
    points, f = _both_halves(z[support], values.gather(1, support), ends)
    loewner = (values[:, :, None] - f[:, None]) / _distances(z, points)
    real, upper, lower = loewner.split([ends, *[(points.shape[1] - ends) // 2] * 2], dim=2)
    columns = torch.cat([real, upper + lower, 1j * (upper - lower)], dim=2)
    columns = columns.scatter(1, support[:, :, None].expand(-1, -1, columns.shape[2]), 0.0)
    least = torch.linalg.svd(torch.cat([columns.real, columns.imag], dim=1), full_matrices=False).Vh[:, -1]
    single, even, odd = least.split([ends, upper.shape[2], upper.shape[2]], dim=1)
    pairs = torch.complex(even, odd)
    return points, f, torch.cat([single.to(pairs.dtype), pairs, pairs.conj()], dim=1)


def _zeros(
    points: Complex[Tensor, "channels m"], weights: Complex[Tensor, "channels m"], ends: int
) -> Complex[Tensor, "channels order"]:
    """Zeros of ``sum_j w_j / (z - z_j)``: eigenvalues of ``(I - 1 w' / sum w) diag(z)`` but the one at zero.

    In real coordinates of conjugate pairs the matrix is real, so that they come in exact pairs.
    """
    pairs = torch.eye((points.shape[1] - ends) // 2, dtype=points.dtype) / math.sqrt(2)
    to_pairs = torch.block_diag(
        torch.eye(ends, dtype=points.dtype),
        torch.cat([torch.cat([pairs, 1j * pairs], 1), torch.cat([pairs, -1j * pairs], 1)]),
    )
    total = weights.sum(1, keepdim=True).real
    total = torch.where(total.abs() > 1e-14, total, torch.full_like(total, 1e-14))
    matrix = torch.diag_embed(points) - (weights * points / total)[:, None]
    found = torch.linalg.eigvals((to_pairs.mH @ matrix @ to_pairs).real)
    zero, zeros = found.gather(1, found.abs().argsort(dim=1)).split([1, found.shape[1] - 1], dim=1)
    # Where rounding joined the zero with another small eigenvalue into a pair, the other is left alone: a real one.
    alone = (zero.imag != 0) & (zeros == zero.conj())
    return torch.where(alone, zeros.real.to(zeros.dtype), zeros)
