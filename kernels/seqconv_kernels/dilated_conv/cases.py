"""Shapes of dilated convolution stacks, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call; level i has the dilation ``factor ** i``."""

    batch: int
    length: int
    channels: int
    width: int
    levels: int
    factor: int

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of each level."""
        return tuple(self.factor**i for i in range(self.levels))


SHAPES = {
    "tiny": Shape(2, 33, 6, 3, 3, 3),
    "tree of reach 4096, 8192 tokens": Shape(1, 8192, 512, 8, 4, 8),
    "overlapping, 8192 tokens": Shape(1, 8192, 512, 7, 6, 2),
}


def example_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor | tuple[int, ...]]:
    """Keyword arguments of :func:`seqconv_kernels.dilated_conv`; every level keeps the variance."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64).to(device, dtype)

    weight = normal(shape.levels, shape.channels, shape.width) * shape.width**-0.5
    return {"x": normal(shape.batch, shape.length, shape.channels), "weight": weight, "dilations": shape.dilations}
