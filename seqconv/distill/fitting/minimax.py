"""Equalising the spectrum of an error: from the least squares to a smaller maximum over the frequencies.

Both by least squares again and again under weights that grow where the error was large; what lowered the maximum
most is kept. Residues for fixed poles by Lawson's iteration (Lawson 1961; Ellacott and Williams 1976 for complex
functions), poles by variable projection for the p-norm with growing p. Taken only for channels whose error lies far
above the Hankel bound: the others gain little, and lose in l2.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from seqconv_kernels._core.complex import as_complex

from .varpro import fit, refine

FAR = 2.2
"""Multiple of the bound that residues are equalised down to."""

STEPS = 12
"""Of Lawson's iteration."""

POWERS = (3, 4, 6, 8, 12, 16)
"""Values of p; two steps each."""


def peak(error: Float[Tensor, "channels length"]) -> Float[Tensor, " channels"]:
    """Largest magnitude of the spectrum at four frequencies per tap, at least."""
    return _spectrum(error).abs().amax(1)


def level_poles(
    blocks: Float[Tensor, "channels blocks 2"], g: Float[Tensor, "channels length"]
) -> Float[Tensor, "channels blocks 2"]:
    """Blocks moved so that the maximum of the error falls, with the residues free."""
    weight = g.new_ones(len(g), g.shape[1] + 1)
    best, lowest = blocks, torch.full_like(g[:, 0], torch.inf)
    for power in (p for p in POWERS for _ in range(2)):
        magnitude = torch.fft.rfft(fit(blocks, g, weight).residual).abs() / weight.sqrt()
        maximum = magnitude.amax(1)
        best = torch.where((maximum < lowest)[:, None, None], blocks, best)
        lowest = torch.minimum(maximum, lowest)
        share = magnitude / maximum.clamp_min(1e-300)[:, None]
        weight = weight ** (1 - 2 / power) * share ** (2 * (power - 2) / power)  # half way to |E|^(p - 2), about
        weight = (weight / weight.amax(1, keepdim=True)).clamp_min(1e-6)
        blocks = refine(blocks, g, 1, weight, first=1e-3)
    return best


def equalised(
    q: Float[Tensor, "channels k length"],
    g: Float[Tensor, "channels length"],
    z: Float[Tensor, "channels k"],
    bound: Float[Tensor, " channels"],
) -> Float[Tensor, "channels k"]:
    """Coefficients z of orthonormal rows q near ``g``, changed where the error's spectrum exceeds ``FAR * bound``.

    Args:
        bound: what no coefficients of any recurrence of that order can stay below.
    """
    error = _spectrum(g - (z[:, None] @ q)[:, 0])
    far = (error.abs().amax(1) > FAR * bound).nonzero().flatten()
    return z.index_add(0, far, _correction(_spectrum(q[far]), error[far], bound[far])) if len(far) else z


def _correction(q: Tensor, error: Tensor, bound: Float[Tensor, " channels"]) -> Float[Tensor, "channels k"]:
    """What to add to the coefficients, from the spectra of the rows and of the error."""
    rows, target = torch.view_as_real(q).flatten(2), torch.view_as_real(error).flatten(1)
    best = target.new_zeros(rows.shape[:2])
    lowest, now = error.abs().amax(1), error
    weight = torch.ones_like(now.real)
    for _ in range(STEPS):
        weight = weight * now.abs().square()
        weight = weight / weight.amax(1, keepdim=True)
        weighted = rows * weight.repeat_interleave(2, dim=1)[:, None]
        gram = weighted @ rows.transpose(1, 2)
        ridge = 1e-12 * gram.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-300)
        gram.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        found = torch.linalg.solve_ex(gram, weighted @ target[:, :, None])[0][:, :, 0]
        now = as_complex((target - (found[:, None] @ rows)[:, 0]).unflatten(1, (-1, 2)))
        maximum = now.abs().amax(1)
        lower = (maximum < lowest) & (lowest > FAR * bound)
        best = torch.where(lower[:, None], found, best)
        lowest = torch.where(lower, maximum, lowest)
        if bool((lowest <= FAR * bound).all()):
            break
    return best


def _spectrum(x: Float[Tensor, "*rows length"]) -> Complex[Tensor, "*rows bins"]:
    spectrum: Tensor = torch.fft.rfft(x, n=1 << (4 * x.shape[-1] - 1).bit_length())
    return spectrum
