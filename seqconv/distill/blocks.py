"""Second-order blocks: real coordinates for pairs of poles, and least squares in their basis.

A block ``1 / (1 - a z^-1 - b z^-2)`` holds a conjugate pair or two real poles in the same two numbers, and moves
smoothly from one to the other. Its impulse response ``x[t]`` and the delayed ``x[t-1]`` span its modes, so a
response is ``sum_k c_k x_k[t] + c'_k x_k[t-1]``, linear in c. :func:`refine` improves (a, b) with c eliminated:
variable projection (Golub and Pereyra 1973) with Kaufman's Jacobian and Levenberg's damping.
"""

from typing import NamedTuple, cast

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import pad

from .orthonormal import orthonormalise
from .poles import stable

CUTOFF = 1e-13
"""Singular values of the column-scaled basis below this share of the largest are left out."""


class Fit(NamedTuple):
    """Coefficients of the basis, its orthonormal factor, and what the fit leaves over."""

    coefficients: Float[Tensor, "channels order"]
    orthonormal: Float[Tensor, "channels order length"]
    residual: Float[Tensor, "channels length"]


def from_poles(poles: Complex[Tensor, "channels order"]) -> Float[Tensor, "channels blocks 2"]:
    """Conjugates share a block, real poles two by two another; an odd one out is joined by a pole at zero."""
    return torch.stack([_pair_up(channel) for channel in poles])


def to_poles(blocks: Float[Tensor, "channels blocks 2"]) -> Complex[Tensor, "channels order"]:
    """The two roots of ``z^2 - a z - b`` of every block, side by side; conjugates exactly so."""
    a, b = blocks.unbind(2)
    root = torch.sqrt((a * a / 4 + b).to(torch.complex128))
    larger = a / 2 + torch.where(a < 0, -1, 1) * root
    product = torch.where(larger == 0, larger, -b / torch.where(larger == 0, torch.ones_like(larger), larger))
    second = torch.where(root.imag == 0, product, larger.conj())
    return torch.stack([larger, second], dim=2).flatten(1)


def solve(blocks: Float[Tensor, "channels blocks 2"], g: Float[Tensor, "channels length"]) -> Fit:
    """The coefficients that come closest to ``g``, x[t] and x[t-1] of block after block."""
    basis = _basis(blocks, g.shape[1]).flatten(1, 2)
    coefficients, orthonormal = least_squares(basis, g, CUTOFF)
    return Fit(coefficients, orthonormal, g - (coefficients[:, None] @ basis)[:, 0])


def least_squares(
    basis: Float[Tensor, "channels k length"], g: Float[Tensor, "channels length"], cutoff: float
) -> tuple[Float[Tensor, "channels k"], Float[Tensor, "channels k length"]]:
    """Coefficients and the orthonormal factor: scaled rows, QR, and the triangle's pseudo-inverse."""
    scale = basis.norm(dim=2, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    q, lower = orthonormalise(basis / scale)
    found = torch.linalg.pinv(lower.transpose(1, 2), rtol=cutoff) @ (q @ g[:, :, None]) / scale
    return found[:, :, 0], q


def coloured(
    x: Float[Tensor, "channels *k length"], spectrum: Float[Tensor, "channels bins"]
) -> Float[Tensor, "channels *k padded"]:
    """``x`` through a filter of magnitude ``sqrt(spectrum)``: its energy is ``mean_omega |X|^2 spectrum``."""
    size = 2 * (spectrum.shape[1] - 1)
    root = spectrum.sqrt().reshape(len(spectrum), *[1] * (x.dim() - 2), -1)
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(x, n=size) * root, n=size)
    return filtered


def refine(
    blocks: Float[Tensor, "channels blocks 2"], g: Float[Tensor, "channels length"], steps: int
) -> Float[Tensor, "channels blocks 2"]:
    """Move the blocks downhill in the l2 error; a channel's step is kept only if its error falls."""
    fit, damping = solve(blocks, g), torch.full((g.shape[0], 1), 1e-3, dtype=g.dtype)
    for _ in range(steps):
        step = _step(blocks, fit, damping)
        moved = stabilised(blocks + step)
        trial = solve(moved, g)
        better = trial.residual.norm(dim=1) < fit.residual.norm(dim=1)
        blocks = torch.where(better[:, None, None], moved, blocks)
        fit = Fit(*(torch.where(_like(better, new), new, old) for new, old in zip(trial, fit, strict=True)))
        damping = torch.where(better[:, None], damping / 5, damping * 10)
    return blocks


def stabilised(blocks: Float[Tensor, "channels blocks 2"]) -> Float[Tensor, "channels blocks 2"]:
    """The same blocks with their poles reflected and clamped into the unit circle."""
    one, two = stable(to_poles(blocks)).unflatten(1, (-1, 2)).unbind(2)
    return torch.stack([(one + two).real, -(one * two).real], dim=2)


def to_modes(
    blocks: Float[Tensor, "channels blocks 2"],
    g: Float[Tensor, "channels length"],
    *,
    dtype: torch.dtype = torch.float64,
    weight: Float[Tensor, "channels bins"] | None = None,
) -> tuple[Complex[Tensor, "channels modes"], Complex[Tensor, "channels modes"]]:
    """Poles and residues, one mode per conjugate pair (doubled residue), by least squares on the modes themselves.

    Solved again rather than converted: a conversion divides by the distance of two nearly equal poles. Poles are
    kept apart and residues kept from cancelling by what the ``dtype`` they will be stored in can resolve. The
    squared error may be weighted by a spectrum.
    """
    both = to_poles(blocks).unflatten(1, (-1, 2))
    second = (both[:, :, 1].imag == 0) & (both[:, :, 1] != 0)
    keep = torch.stack([torch.ones_like(second), second], dim=2).flatten(1)
    first = (~keep).int().argsort(dim=1, stable=True)[:, : int(keep.sum(1).max())]
    poles, keep = both.flatten(1).gather(1, first), keep.gather(1, first)
    eps = torch.finfo(dtype).eps
    poles = _apart(poles, eps ** (1 / 3))
    powers = torch.where(keep[:, :, None], powers_of(poles, g.shape[1]), 0)
    columns = torch.cat([powers.real, powers.imag], dim=1)
    if weight is not None:
        columns, g = coloured(columns, weight), coloured(g, weight)
    weights, _ = least_squares(columns, g, max(CUTOFF, 10 * eps))
    cosine, sine = weights.chunk(2, dim=1)
    return poles, torch.complex(cosine, -sine) * keep


def _apart(poles: Complex[Tensor, "channels modes"], share: float) -> Complex[Tensor, "channels modes"]:
    """Poles at least a share of their width ``1 - |pole|`` from each other and from their own conjugates.

    Equal poles stand for ``t pole^t``, which two that are a little apart imitate to first order in the share.
    """
    width = share * (1 - poles.abs())
    off_axis = poles.imag.abs().clamp_min(width / 2)
    poles = torch.complex(poles.real, poles.imag.sign() * off_axis)
    close = (poles[:, :, None] - poles[:, None, :]).abs() < width[:, :, None]
    earlier = close.tril(diagonal=-1).sum(2)
    return poles * (1 - earlier * width / poles.abs().clamp_min(width))


def _pair_up(poles: Complex[Tensor, " order"]) -> Float[Tensor, "blocks 2"]:
    negligible = 1e-12
    upper = [p for p in poles.tolist() if p.imag > negligible * abs(p)]
    real_ones = sorted((p.real for p in poles.tolist() if abs(p.imag) <= negligible * abs(p)), reverse=True)
    real_ones += [0.0] * (len(real_ones) % 2)
    blocks = [(2 * p.real, -(abs(p) ** 2)) for p in upper]
    blocks += [(x + y, -x * y) for x, y in zip(real_ones[::2], real_ones[1::2], strict=True)]
    return torch.tensor(blocks, dtype=poles.real.dtype)


def _free(blocks: Float[Tensor, "channels blocks 2"]) -> Tensor:
    """Which coordinates may move: not the b of a single real pole, which is zero and stays so."""
    return torch.stack([torch.ones_like(blocks[:, :, 1]), blocks[:, :, 1] != 0], dim=2)


def _like(chosen: Tensor, tensor: Tensor) -> Tensor:
    """A choice of channels, shaped to broadcast over a tensor."""
    return chosen.reshape(-1, *[1] * (tensor.dim() - 1))


def _basis(blocks: Float[Tensor, "channels blocks 2"], length: int) -> Float[Tensor, "channels blocks 2 length"]:
    """Impulse response x[t] of every block, and x[t-1], by doubling the power of its companion matrix."""
    a, b = blocks.unbind(2)
    power = torch.stack([torch.stack([a, b], -1), torch.stack([torch.ones_like(a), torch.zeros_like(a)], -1)], -2)
    x = torch.stack([torch.ones_like(a), torch.zeros_like(a)], -1)[..., None]
    while x.shape[-1] < length:
        x, power = torch.cat([x, power @ x], dim=-1), power @ power
    return x[..., :length]


def _delay(x: Float[Tensor, "channels blocks length"], steps: int) -> Float[Tensor, "channels blocks length"]:
    return pad(x, (steps, 0))[..., : x.shape[-1]]


def _step(blocks: Tensor, fit: Fit, damping: Float[Tensor, "channels 1"]) -> Float[Tensor, "channels blocks 2"]:
    """Damped Gauss-Newton step: the derivative of ``1 / D`` by a is ``z^-1 / D^2``, by b ``z^-2 / D^2``."""
    length = fit.residual.shape[1]
    size = 1 << (2 * length - 1).bit_length()
    spectrum = torch.fft.rfft(_basis(blocks, length)[:, :, 0], n=size)
    squared = torch.fft.irfft(spectrum.square(), n=size)[..., :length]
    now, before = fit.coefficients.unflatten(1, (-1, 2))[..., None].unbind(2)
    slope = now * squared + before * _delay(squared, 1)
    jacobian = torch.stack([_delay(slope, 1), _delay(slope, 2)], dim=2).flatten(1, 2)
    jacobian = jacobian - (jacobian @ fit.orthonormal.transpose(1, 2)) @ fit.orthonormal
    normal = jacobian @ jacobian.transpose(1, 2)
    diagonal = normal.diagonal(dim1=1, dim2=2)
    floor = 1e-12 * diagonal.amax(1, keepdim=True).clamp_min(1e-300)
    damped = normal + torch.diag_embed(damping * diagonal + floor)
    gradient = jacobian @ fit.residual[:, :, None]
    step: Tensor = torch.linalg.lstsq(damped, gradient, driver="gelsd").solution[:, :, 0]
    return cast(Tensor, step.unflatten(1, (-1, 2))) * _free(blocks)


def powers_of(poles: Complex[Tensor, "channels modes"], length: int) -> Complex[Tensor, "channels modes length"]:
    """``poles ** t`` for t = 0 .. length - 1, by doubling."""
    powers, base = torch.ones_like(poles)[:, :, None], poles
    while powers.shape[2] < length:
        powers, base = torch.cat([powers, powers * base[:, :, None]], dim=2), base * base
    return powers[:, :, :length]
