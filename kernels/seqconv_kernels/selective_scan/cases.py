"""Shapes of the selective scan in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call; ``groups=0`` for B and C without a group axis."""

    batch: int
    length: int
    channels: int
    d_state: int
    groups: int = 0


SHAPES = {
    "tiny": Shape(2, 33, 24, 4),
    "mamba-130m, 512 tokens": Shape(1, 512, 1536, 16),
    "mamba-130m, 2048 tokens": Shape(1, 2048, 1536, 16),
    "mamba-130m, 8192 tokens": Shape(1, 8192, 1536, 16),
    "mamba-2.8b, 2048 tokens": Shape(1, 2048, 5120, 16),
    "vision mamba tiny, 197 patches": Shape(8, 197, 384, 16),
}


def example_inputs(
    shape: Shape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    gate: bool = True,
    initial_state: bool = False,
) -> dict[str, Tensor | bool]:
    """Keyword arguments of :func:`seqconv_kernels.selective_scan`, scaled as in a freshly initialised Mamba."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    batch, length, channels, n = shape.batch, shape.length, shape.channels, shape.d_state
    groups = (shape.groups,) if shape.groups else ()
    parameter_dtype = torch.promote_types(dtype, torch.float32)
    activations = {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels) * 0.5,
        "B": normal(batch, length, *groups, n),
        "C": normal(batch, length, *groups, n),
    }
    if gate:
        activations["z"] = normal(batch, length, channels)
    parameters = {
        "A": -torch.arange(1, n + 1, dtype=torch.float64) * torch.exp(0.1 * normal(channels, n)),
        "D": normal(channels),
        "delta_bias": normal(channels) * 0.5 - 4.0,
    }
    if initial_state:
        parameters["initial_state"] = normal(batch, channels, n)
    inputs: dict[str, Tensor | bool] = {name: t.to(device, dtype) for name, t in activations.items()}
    return inputs | {n: t.to(device, parameter_dtype) for n, t in parameters.items()} | {"delta_softplus": True}
