"""Shapes of the cross scan in published models, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call, for images of ``height`` by ``width`` cells."""

    batch: int
    height: int
    width: int
    channels: int
    d_state: int
    directions: int = 4


SHAPES = {
    "tiny": Shape(2, 5, 7, 24, 3),
    "vmamba-t, stage 1 at 224": Shape(1, 56, 56, 96, 1),
    "vmamba-t, stage 3 at 224": Shape(1, 14, 14, 384, 1),
    "vmamba-t v0, stage 1 at 224": Shape(1, 56, 56, 192, 16),
}


def example_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor | bool]:
    """Keyword arguments of :func:`seqconv_kernels.cross_selective_scan`: rows, columns and both in reverse."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    length, n, count = shape.height * shape.width, shape.d_state, shape.directions
    tokens = (shape.batch, length, count)
    parameter_dtype = torch.promote_types(dtype, torch.float32)
    activations = {
        "u": normal(shape.batch, length, shape.channels),
        "delta": normal(*tokens, shape.channels) * 0.5,
        "B": normal(*tokens, n),
        "C": normal(*tokens, n),
    }
    parameters = {
        "A": -torch.arange(1, n + 1, dtype=torch.float64) * torch.exp(0.1 * normal(count, shape.channels, n)),
        "D": normal(count, shape.channels),
        "delta_bias": normal(count, shape.channels) * 0.5 - 4.0,
    }
    by_row = torch.arange(length)
    by_column = by_row.view(shape.height, shape.width).T.flatten()
    curves = [by_row, by_column, by_row.flip(0), by_column.flip(0)]
    inputs: dict[str, Tensor | bool] = {name: t.to(device, dtype) for name, t in activations.items()}
    inputs |= {name: t.to(device, parameter_dtype) for name, t in parameters.items()}
    orders = torch.stack([curves[k % len(curves)] for k in range(count)]).to(device)
    return inputs | {"orders": orders, "delta_softplus": True}
