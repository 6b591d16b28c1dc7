"""Shapes of the state-space dual scan in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    batch: int
    length: int
    heads: int
    head_dim: int
    groups: int
    d_state: int


SHAPES = {
    "tiny": Shape(2, 37, 4, 3, 2, 5),
    "8 heads of 64, 4096 tokens": Shape(1, 4096, 8, 64, 1, 64),
    "mamba2-130m, 2048 tokens": Shape(1, 2048, 24, 64, 1, 128),
    "mamba2-2.7b, 2048 tokens": Shape(1, 2048, 80, 64, 1, 128),
}


def example_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu", initial_state: bool = False
) -> dict[str, Tensor | bool]:
    """Keyword arguments of :func:`seqconv_kernels.ssd`, with every optional tensor, initialised as in Mamba-2."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64).to(device, dtype)

    tokens, grouped = (shape.batch, shape.length), (shape.groups, shape.d_state)
    tensors = {
        "x": normal(*tokens, shape.heads, shape.head_dim),
        "dt": normal(*tokens, shape.heads),
        "A": -torch.linspace(1, 16, shape.heads, dtype=torch.float64).to(device, dtype),
        "B": normal(*tokens, *grouped),
        "C": normal(*tokens, *grouped),
        "D": normal(shape.heads),
        "z": normal(*tokens, shape.heads, shape.head_dim),
        "dt_bias": normal(shape.heads) - 3,
    }
    if initial_state:
        tensors["initial_state"] = normal(shape.batch, shape.heads, shape.head_dim, shape.d_state)
    return {**tensors, "dt_softplus": True}
