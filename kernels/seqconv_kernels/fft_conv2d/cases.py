"""Shapes of the two-dimensional convolution in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    batch: int
    height: int
    width: int
    channels: int
    rows: int
    columns: int


SHAPES = {
    "tiny": Shape(2, 5, 7, 3, 4, 7),
    "hyena nd on 32 x 32": Shape(8, 32, 32, 128, 32, 32),
    "14 x 14 patches": Shape(16, 14, 14, 384, 14, 14),
}


def example_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor]:
    """Keyword arguments of :func:`seqconv_kernels.fft_conv2d`."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64).to(device, dtype)

    taps = shape.rows * shape.columns
    return {
        "u": normal(shape.batch, shape.height, shape.width, shape.channels),
        "h": normal(shape.channels, shape.rows, shape.columns) * taps**-0.5,
        "skip": normal(shape.channels),
    }
