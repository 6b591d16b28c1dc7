"""What a modal filter stores, poles and residues: from blocks of poles by the best fit, and channel by channel."""

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .minimax import equalised
from .orthonormal import orthonormalise
from .second_order import CUTOFF, coloured, powers_of, to_poles


class Modes(NamedTuple):
    """Poles and residues, one mode per conjugate pair."""

    poles: Complex[Tensor, "channels modes"]
    residues: Complex[Tensor, "channels modes"]

    def rows(self, index: Tensor) -> "Modes":
        """The modes of some of the channels."""
        return Modes(self.poles[index], self.residues[index])

    def response(self, length: int) -> Float[Tensor, "channels length"]:
        """What they sum up to after the head."""
        return (powers_of(self.poles, length) * self.residues[:, :, None]).sum(1).real


def put(modes: Modes, rows: Tensor, found: Modes) -> None:
    """Write the modes of some channels, padded with none; modes beyond the width are none."""
    for whole, part in zip(modes, found, strict=True):
        width = whole.shape[1]
        whole[rows] = torch.nn.functional.pad(part[:, :width], (0, max(0, width - part.shape[1])))


def keep_smaller(modes: Modes, least: Tensor, rows: Tensor, found: Modes, bounds: Tensor) -> None:
    """Put what was found for some rows where its bound is smaller, in place."""
    better = bounds < least[rows]
    put(modes, rows[better], found.rows(better))
    least[rows[better]] = bounds[better]


def to_modes(
    blocks: Float[Tensor, "channels blocks 2"],
    g: Float[Tensor, "channels length"],
    *,
    dtype: torch.dtype = torch.float64,
    weight: Float[Tensor, "channels bins"] | None = None,
    bound: Float[Tensor, " channels"] | None = None,
) -> tuple[Complex[Tensor, "channels modes"], Complex[Tensor, "channels modes"]]:
    """Poles and residues, one mode per conjugate pair (doubled residue), by least squares on the modes themselves.

    Solved again rather than converted: a conversion divides by the distance of two nearly equal poles. Poles are
    kept apart and residues kept from cancelling by what the ``dtype`` they will be stored in can resolve. The
    squared error may be weighted by a spectrum; or its maximum over the frequencies is lowered towards a bound.
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
    q, back = spanned(columns, max(CUTOFF, 10 * eps))
    coefficients = (q @ g[:, :, None])[:, :, 0]
    if bound is not None:
        coefficients = equalised(q, g, coefficients, bound)
    cosine, sine = (back @ coefficients[:, :, None])[:, :, 0].chunk(2, dim=1)
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


def spanned(
    basis: Float[Tensor, "channels k length"], cutoff: float
) -> tuple[Float[Tensor, "channels k length"], Float[Tensor, "channels k k"]]:
    """Orthonormal q of the same span, and the matrix that takes its coefficients to those of the basis.

    Directions whose singular value, with all rows scaled alike, is below a share of the largest are left out.
    """
    scale = basis.norm(dim=2, keepdim=True)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    q, lower = orthonormalise(basis / scale)
    left, values, right = torch.linalg.svd(lower)
    kept = values > cutoff * values[:, :1]
    inverse = torch.where(kept, 1 / torch.where(kept, values, torch.ones_like(values)), torch.zeros_like(values))
    return (right * kept[:, :, None]) @ q, left * inverse[:, None] / scale
