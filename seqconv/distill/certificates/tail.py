"""Bounds of the taps of a filter that a fit leaves out: ``sum_{t >= T} |h[t]|``, which bounds their H-infinity norm.

Exactly the sum for a filter that ends. By its recurrence otherwise::

    diagonal:  |h[t]| <= sum_n |residues_n| |poles_n|^t                     a geometric series in every mode
    dense:     the taps up to N = 2^k by evaluation, and then, with ρ_i = ||A^(2^i)||_2,
               sum_{t >= N} |C A^t B| <= ||C|| ||A^N B|| prod_{i<m} (1 + ρ_i) / (1 - ρ_m)   for the first ρ_m < 1/2
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from ...filters.base import Filter
from ...filters.explicit.dense import DenseSSM
from ...filters.mixed import MixedFilter
from ...filters.state_space.diagonal import DiagonalSSM

LONGEST = 1 << 17
"""Taps of a dense recurrence that are evaluated at most."""

SMALL = 1e-3
"""Share of the evaluated taps below which the bound of the others is small enough."""

SQUARINGS = 40


@torch.no_grad()
def taps_beyond(filter: Filter, length: int) -> Float[Tensor, " channels"]:
    """Bound of the sum of the absolute taps from ``length`` on, infinite where unknown; float64, on the CPU."""
    if isinstance(filter, MixedFilter):
        of_modal, distilled = taps_beyond(filter.modal, length), filter.distilled.cpu()
        return taps_beyond(filter.exact, length).index_copy(0, distilled, of_modal)
    if filter.max_length is not None:
        end = max(length, filter.max_length)
        return cast(Tensor, filter(end))[:, length:].double().abs().sum(1).cpu()
    recurrence = filter.recurrence()
    if isinstance(recurrence, DiagonalSSM):
        return _diagonal(recurrence, length).cpu()
    if isinstance(recurrence, DenseSSM):
        return _dense(filter, recurrence, length).cpu()
    return torch.full((filter.channels,), torch.inf, dtype=torch.float64)


def _diagonal(ssm: DiagonalSSM, length: int) -> Float[Tensor, " channels"]:
    reach = 0 if ssm.head is None else ssm.head.shape[1]
    head = 0.0 if ssm.head is None else ssm.head[:, length:].double().abs().sum(1)
    decay = (1 + ssm.offsets.to(torch.complex128)).abs()
    series = ssm.residues.to(torch.complex128).abs() * decay ** max(0, length - reach) / (1 - decay)
    return torch.where(decay < 1, series, torch.inf).sum(1) + head


def _dense(filter: Filter, ssm: DenseSSM, length: int) -> Float[Tensor, " channels"]:
    state, power = ssm.B.double(), ssm.A.double()
    end, growth, total = 1, torch.ones(len(state)).double(), torch.full((len(state),), torch.inf).double()
    reached = torch.zeros(len(state), dtype=torch.bool)
    gains = torch.ones(len(state), dtype=torch.float64)
    squares = [power]
    for _ in range(SQUARINGS):
        norm = torch.linalg.matrix_norm(power, ord=2).cpu()
        found = ~reached & (norm < 0.5)
        gains = torch.where(found, growth / (1 - norm), gains)
        reached, growth = reached | found, growth * (1 + norm)
        if bool(reached.all()):
            break
        power = power @ power
        squares.append(power)
    else:
        return total
    size = ssm.C.double().norm(dim=1).cpu() * gains
    while end < LONGEST:
        end *= 2
        level = end.bit_length() - 1
        while len(squares) <= level:
            squares.append(squares[-1] @ squares[-1])
        if end < length:
            continue
        rest = size * (squares[level] @ state[..., None])[..., 0].norm(dim=1).cpu()
        known = cast(Tensor, filter(end))[:, length:].double().abs().sum(1).cpu()
        total = torch.minimum(total, known + rest)
        if bool((rest <= SMALL * known).all()):
            break
    return total
