"""Shapes of linear layers in decoding, and example inputs of any shape."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .api import quantize_rows


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    rows: int
    inputs: int
    outputs: int


SHAPES = {
    "tiny": Shape(2, 37, 19),
    "in_proj of Mamba-130M": Shape(1, 768, 3072),
    "out_proj of Mamba-130M": Shape(1, 1536, 768),
    "head of Mamba-130M": Shape(1, 768, 50280),
}


def example_inputs(
    shape: Shape,
    weights: str = "float32",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
    group_size: int | None = None,
) -> dict[str, Tensor]:
    """Tensors for :func:`seqconv_kernels.skinny_linear`, the weights in the dtype called ``weights``."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng)

    weight = normal(shape.outputs, shape.inputs) * shape.inputs**-0.5
    inputs = {"x": normal(shape.rows, shape.inputs).to(dtype)}
    if bias:
        inputs["bias"] = normal(shape.outputs).to(dtype)
    if weights == "int8":
        narrow, scale = quantize_rows(weight, group_size=group_size)
        return inputs | {"weight": narrow, "scale": scale}
    return inputs | {"weight": weight.to(getattr(torch, weights))}


def skinny_linear_inputs(shape: Shape, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    """The same on a device, weights in the dtype of the activations."""
    inputs = example_inputs(shape, str(dtype).removeprefix("torch."), dtype=dtype)
    return {name: tensor.to(device) for name, tensor in inputs.items()}
