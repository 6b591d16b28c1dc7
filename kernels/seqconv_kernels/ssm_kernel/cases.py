"""Shapes of the structured products in published models, and example inputs of any shape."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of one call."""

    heads: int
    channels: int
    pairs: int
    length: int


SHAPES = {
    "tiny": Shape(2, 3, 4, 33),
    "S4D, long range arena text": Shape(2, 256, 32, 4096),
    "S4D, sequential CIFAR-10": Shape(2, 512, 32, 1024),
    "S4D, Path-X": Shape(2, 256, 32, 16384),
    "S4D, speech commands": Shape(2, 128, 32, 16000),
}


def example_poles(
    shape: Shape, *, seed: int = 0, dtype: torch.dtype = torch.complex64, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Weights (heads, channels, pairs) and continuous poles times the time step (channels, pairs), as S4D-Lin's."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(shape.heads, shape.channels, shape.pairs, dtype=torch.complex128, generator=rng)
    dt = torch.exp(torch.empty(shape.channels, 1).double().uniform_(math.log(1e-3), math.log(1e-1), generator=rng))
    poles = torch.complex(torch.tensor(-0.5).double(), math.pi * torch.arange(shape.pairs).double())
    return weights.to(device, dtype), (dt * poles).to(device, dtype)


def vandermonde_inputs(
    shape: Shape, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Tensor | int]:
    """Keyword arguments of :func:`~seqconv_kernels.ssm_kernel.vandermonde`, in the complex dtype of ``dtype``."""
    residues, log_poles = example_poles(shape, dtype=_complex(dtype), device=device)
    return {"residues": residues, "log_poles": log_poles, "length": shape.length}


def cauchy_inputs(shape: Shape, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor | int]:
    """Keyword arguments of :func:`~seqconv_kernels.ssm_kernel.cauchy`, in the complex dtype of ``dtype``."""
    v, poles = example_poles(shape, dtype=_complex(dtype), device=device)
    return {"v": v, "poles": poles, "length": shape.length}


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32).to_complex()
