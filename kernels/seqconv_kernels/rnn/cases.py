"""Shapes of recurrent cells in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cells import CELLS


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    batch: int
    length: int
    heads: int
    head_dim: int


SHAPES = {
    "tiny": Shape(2, 37, 2, 5),
    "4 heads of 64, 1024 tokens": Shape(8, 1024, 4, 64),
    "one head of 256, 1024 tokens": Shape(8, 1024, 1, 256),
}


def example_inputs(
    shape: Shape,
    cell: str = "lstm",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    initial_state: bool = False,
) -> dict[str, Tensor]:
    """Tensors for :func:`seqconv_kernels.rnn`, the recurrent weights uniform within ``±head_dim ** -0.5``."""
    rng = torch.Generator().manual_seed(seed)
    gates, states, _ = CELLS[cell]
    heads = (shape.heads, shape.head_dim)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64).to(device, dtype)

    inputs = {
        "x": normal(shape.batch, shape.length, gates, *heads),
        "recurrent_weight": normal(gates, *heads, shape.head_dim) * shape.head_dim**-0.5,
        "bias": normal(gates, *heads),
    }
    if initial_state:
        inputs["initial_state"] = normal(shape.batch, states, *heads)
        if cell == "slstm":  # a normaliser that the zero state can lead to
            inputs["initial_state"][:, 2] = 1 + inputs["initial_state"][:, 2].abs()
    return inputs


def rnn_inputs(shape: Shape, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor | str]:
    """Every argument of an example call, the cell among them."""
    return {**example_inputs(shape, "lstm", dtype=dtype, device=device), "cell": "lstm"}
