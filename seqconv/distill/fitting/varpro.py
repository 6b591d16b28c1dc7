"""Variable projection: poles moved downhill in the l2 error, residues eliminated.

``min_c |g - c Phi|^2`` over the responses Phi of second-order blocks (:mod:`.blocks`) is a function of the blocks'
coordinates (a, b) alone; every step is a Gauss-Newton step of it with Kaufman's Jacobian and Levenberg's damping
(Golub and Pereyra 1973).
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .orthonormal import orthonormalise
from .second_order import CUTOFF, coloured, responses, stabilised

ENOUGH = 1e-8
"""Departure from orthonormality that projecting twice makes up for."""

SETTLED = 1e-5
"""Relative fall of the error in one step below which a channel is left as it is."""

DAMPING = (1e-8, 1e4)
"""Least and last damping, relative to the diagonal of the normal equations."""


class Fit(NamedTuple):
    """The closest response: its coefficients, what it leaves over, the orthonormal basis, and the raw derivatives."""

    coefficients: Float[Tensor, "channels order"]
    residual: Float[Tensor, "channels points"]
    orthonormal: Float[Tensor, "channels order points"]
    slopes: Float[Tensor, "channels blocks padded"]

    @property
    def error(self) -> Float[Tensor, " channels"]:
        """Its l2 norm."""
        error: Tensor = self.residual.norm(dim=1)
        return error


def refine(
    blocks: Float[Tensor, "channels blocks 2"],
    g: Float[Tensor, "channels length"],
    steps: int,
    weight: Float[Tensor, "channels bins"] | None = None,
    *,
    first: float = 0.1,
) -> Float[Tensor, "channels blocks 2"]:
    """Move the blocks downhill in the l2 error, weighted by a spectrum or not; no channel's error ever rises.

    A channel that has settled stays, whatever the others do. ``first`` is the damping to begin with.
    """
    least, last = DAMPING
    best, damping = fit(blocks, g, weight), torch.full((len(g), 1), first, dtype=g.dtype)
    settled = torch.zeros(len(g), dtype=torch.bool)
    for _ in range(steps):
        moved = stabilised(blocks + _step(blocks, best, damping, weight))
        trial = fit(moved, g, weight)
        fall = 1 - trial.error / best.error.clamp_min(1e-300)
        better = (fall > 0) & ~settled
        blocks = torch.where(better[:, None, None], moved, blocks)
        best = Fit(*(torch.where(_like(better, new), new, old) for new, old in zip(trial, best, strict=True)))
        damping = torch.where(better[:, None], (damping / 5).clamp_min(least), damping * 4)
        settled |= (better & (fall < SETTLED)) | (damping[:, 0] > last)
        if bool(settled.all()):
            break
    return blocks


def errors(
    blocks: Float[Tensor, "channels blocks 2"], g: Float[Tensor, "channels length"]
) -> Float[Tensor, " channels"]:
    """The l2 error of the closest response."""
    return fit(blocks, g).error


def fit(
    blocks: Float[Tensor, "channels blocks 2"],
    g: Float[Tensor, "channels length"],
    weight: Float[Tensor, "channels bins"] | None = None,
) -> Fit:
    """The coefficients of :func:`~.blocks.responses` that come closest to ``g``; with a weight, all is coloured."""
    basis, slopes = responses(blocks, g.shape[1])
    if weight is not None:
        basis, g = coloured(basis, weight), coloured(g, weight)
    q, lower = orthonormalise(basis, error=ENOUGH)
    projected = q @ g[:, :, None]
    residual = torch.baddbmm(g[:, None], projected.transpose(1, 2), q, alpha=-1)
    again = q @ residual.transpose(1, 2)
    residual.baddbmm_(again.transpose(1, 2), q, alpha=-1)
    return Fit(_coefficients(lower, projected + again), residual[:, 0], q, slopes)


def _coefficients(
    lower: Float[Tensor, "channels k k"], projected: Float[Tensor, "channels k 1"]
) -> Float[Tensor, "channels k"]:
    """``c`` with ``c lower = projected``, without the directions that rounding decides about."""
    scale = lower.norm(dim=2, keepdim=True).clamp_min(1e-300)
    triangle = (lower / scale).transpose(1, 2)
    found = torch.linalg.solve_triangular(triangle, projected, upper=True)
    dependent = (triangle.diagonal(dim1=1, dim2=2).abs().amin(1) <= 1e3 * CUTOFF).nonzero().flatten()
    if len(dependent):
        found[dependent] = torch.linalg.pinv(triangle[dependent], rtol=CUTOFF) @ projected[dependent]
    return cast(Tensor, found / scale)[:, :, 0]


def _step(
    blocks: Tensor, fit: Fit, damping: Float[Tensor, "channels 1"], weight: Tensor | None
) -> Float[Tensor, "channels blocks 2"]:
    """Damped Gauss-Newton step: the derivative of ``1 / D`` by a is ``z^-1 / D^2``, by b ``z^-2 / D^2``."""
    cu, cv = fit.coefficients[..., None].chunk(2, dim=1)
    before = cv - blocks[:, :, :1] / 2 * cu  # u and v are 1 - a / 2 z^-1 and z^-1 over D
    slope = (cu * fit.slopes[..., 1:]).addcmul_(before, fit.slopes[..., :-1])
    jacobian = torch.cat([slope[..., 1:], slope[..., :-1]], dim=1)
    if weight is not None:
        jacobian = coloured(jacobian, weight)
    jacobian.baddbmm_(jacobian @ fit.orthonormal.transpose(1, 2), fit.orthonormal, alpha=-1)
    jacobian *= _free(blocks)
    normal = jacobian @ jacobian.transpose(1, 2)
    gradient = jacobian @ fit.residual[:, :, None]
    diagonal = normal.diagonal(dim1=1, dim2=2)
    floor = 1e-12 * diagonal.amax(1, keepdim=True).clamp_min(1e-300)
    scale = (diagonal + floor).rsqrt()
    scaled = normal * scale[:, :, None] * scale[:, None] + torch.diag_embed(damping.expand_as(scale))
    factor, failed = torch.linalg.cholesky_ex(scaled)
    step = scale[:, :, None] * torch.cholesky_solve(scale[:, :, None] * gradient, factor)
    step = torch.where(failed[:, None, None] > 0, torch.zeros_like(step), step)
    return cast(Tensor, step[:, :, 0].unflatten(1, (2, -1))).transpose(1, 2)


def _free(blocks: Float[Tensor, "channels blocks 2"]) -> Float[Tensor, "channels order 1"]:
    """1 for coordinates that may move: not the b of a single real pole, which is zero and stays so."""
    b = (blocks[:, :, 1:] != 0).to(blocks.dtype)
    return torch.cat([torch.ones_like(b), b], dim=1)


def _like(chosen: Bool[Tensor, " channels"], tensor: Tensor) -> Tensor:
    """A choice of channels, shaped to broadcast over a tensor."""
    return chosen.reshape(-1, *[1] * (tensor.dim() - 1))
