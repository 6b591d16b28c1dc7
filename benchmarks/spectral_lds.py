"""Recurrences as SpectraLDS makes them, to compare with: one bank of real poles that all filters share.

``h_c[t] ~ sum_n M_cn a_n^t`` with real ``a_n`` in (-1, 1): the poles are picked one by one from a pool of systems of
one state, each time the one that lowers the summed squared error of all filters most, and M solves the least squares.
The original draws its pool at random, begins with the best of many random subsets and descends for M at the end.
Source: Shah et al. 2025 (arXiv 2505.17868); ``flash_stu/utils/filter_gen.py`` of dshah02/SpectraLDS at 1808beb.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from seqconv.distill.fitting.modes import Modes
from seqconv.distill.task import Distilled, filter_task

POOL = 400
"""Poles of each sign, their distances from the unit circle in equal ratios."""
NEAREST = 1e-5
"""The smallest distance."""


def spectral_lds(h: Float[Tensor, "channels length"], order: int) -> Distilled:
    """The recurrences of that order with one bank of poles, certified as those of every method."""
    task = filter_task(h, order)
    g = task.taps[:, task.head :]
    poles = pick_poles(g, order)
    powers = poles[:, None] ** torch.arange(g.shape[1], dtype=torch.float64)
    residues = torch.linalg.lstsq(powers.T, g.T, driver="gelsd").solution.T
    modes = Modes(poles.expand(len(g), -1).to(torch.complex128), residues.to(torch.complex128))
    return task.finish(modes, None, ())


def pick_poles(g: Float[Tensor, "channels length"], order: int) -> Float[Tensor, " order"]:
    """Poles from the pool, each chosen for the residual that those before it leave (orthogonal least squares)."""
    magnitude = 1 - torch.logspace(torch.tensor(NEAREST).log10().item(), 0, POOL + 1, dtype=torch.float64)[:-1]
    pool = torch.cat([magnitude, -magnitude])
    rest = pool[:, None] ** torch.arange(g.shape[1], dtype=torch.float64)
    residual, chosen = g.clone(), []
    sizes = rest.norm(dim=1)
    for _ in range(order):
        left = rest.norm(dim=1)
        gain = (rest @ residual.T).square().sum(1) / left.square()
        best = int(torch.where(left > 1e-9 * sizes, gain, 0.0).argmax())
        chosen.append(best)
        direction = rest[best] / left[best]
        residual = residual - (residual @ direction)[:, None] * direction
        for _ in range(2):  # twice, since rounding leaves some of it
            rest = rest - (rest @ direction)[:, None] * direction
        rest[best] = 0
    return pool[chosen]
