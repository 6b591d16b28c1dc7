"""Shapes of the diagonal scan in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    batch: int
    length: int
    channels: int


SHAPES = {
    "tiny": Shape(2, 37, 5),
    "hgrn-150m, 2048 tokens": Shape(1, 2048, 1024),
    "s5 on 16384 tokens": Shape(1, 16384, 192),
}


def example_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu", initial_state: bool = False
) -> dict[str, Tensor]:
    """Keyword arguments of :func:`seqconv_kernels.linear_scan`, with factors inside the unit circle."""
    rng = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=wide)

    size = (shape.batch, shape.length, shape.channels)
    factors = normal(*size)
    inputs = {"a": factors / (1 + factors.abs()), "x": normal(*size)}
    if initial_state:
        inputs["initial_state"] = normal(shape.batch, shape.channels)
    return {name: t.to(device, dtype) for name, t in inputs.items()}
