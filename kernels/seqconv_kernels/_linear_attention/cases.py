"""What the example inputs of the recurrences with a matrix state share: sizes of a call, draws."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadSizes:
    """Sizes of one call."""

    batch: int
    length: int
    heads: int
    d_k: int
    d_v: int


def normal_draws(seed: int) -> Callable[..., Tensor]:
    """A function of sizes that draws from the normal distribution, in float64: the same numbers for every dtype."""
    rng = torch.Generator().manual_seed(seed)
    return lambda *size: torch.randn(*size, generator=rng, dtype=torch.float64)
