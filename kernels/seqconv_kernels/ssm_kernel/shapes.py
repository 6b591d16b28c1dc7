"""Shapes of state-space kernels in published models, and example inputs of any shape."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call; ``d_state`` counts conjugate pairs."""

    heads: int
    channels: int
    d_state: int
    length: int


SHAPES = {
    "tiny": Shape(1, 6, 4, 33),
    "S4 and S4D on LRA, 2k": Shape(1, 256, 32, 2048),
    "S4 and S4D on LRA, 16k": Shape(1, 256, 32, 16384),
    "bidirectional, 4k": Shape(2, 256, 32, 4096),
}


def vandermonde_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor | int]:
    """Keyword arguments of :func:`~seqconv_kernels.ssm_kernel.vandermonde`, in the complex dtype of ``dtype``."""
    poles, weights = _poles(shape, seed)
    return _placed({"residues": weights, "log_poles": poles}, shape, dtype, device)


def cauchy_inputs(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor | int]:
    """Keyword arguments of :func:`~seqconv_kernels.ssm_kernel.cauchy`, in the complex dtype of ``dtype``."""
    poles, weights = _poles(shape, seed)
    return _placed({"v": weights, "poles": poles}, shape, dtype, device)


def _poles(shape: Shape, seed: int) -> tuple[Tensor, Tensor]:
    """Poles of S4D-Lin, ``-1/2 + i pi n``, times steps between 0.001 and 0.1, and normal weights."""
    rng = torch.Generator().manual_seed(seed)
    steps = torch.logspace(-3, -1, shape.channels, dtype=torch.float64)
    poles = torch.complex(torch.tensor(-0.5).double(), math.pi * torch.arange(shape.d_state, dtype=torch.float64))
    size = shape.heads, shape.channels, shape.d_state
    weights = torch.randn(*size, generator=rng, dtype=torch.complex128) / shape.d_state**0.5
    return steps[:, None] * poles, weights * steps[:, None]


def _placed(tensors: dict[str, Tensor], shape: Shape, dtype: torch.dtype, device: str) -> dict[str, Tensor | int]:
    kind = torch.promote_types(dtype, torch.float32).to_complex()
    return {name: t.to(device, kind) for name, t in tensors.items()} | {"length": shape.length}
