"""Shapes of the short causal convolution in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    batch: int
    length: int
    channels: int
    width: int


SHAPES = {
    "tiny": Shape(2, 33, 24, 4),
    "mamba-130m, 2048 tokens": Shape(1, 2048, 1536, 4),
    "mamba-130m, batch of 4": Shape(4, 2048, 1536, 4),
    "hyena, 8192 tokens": Shape(1, 8192, 2304, 3),
}


def example_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu", initial_state: bool = False
) -> dict[str, Tensor | str]:
    """Keyword arguments of :func:`seqconv_kernels.causal_conv1d`, with SiLU, scaled as in a Conv1d."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64).to(device, dtype)

    tensors = {
        "x": normal(shape.batch, shape.length, shape.channels),
        "weight": normal(shape.channels, shape.width) * shape.width**-0.5,
        "bias": normal(shape.channels) * 0.1,
    }
    if initial_state:
        tensors["initial_state"] = normal(shape.batch, shape.width - 1, shape.channels)
    return {**tensors, "activation": "silu"}
