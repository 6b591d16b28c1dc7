"""What the operators of this op share: real tensors whose last axis holds the parts of a number, and buffers.

The operators take parts (one if real, two if complex), because lazy conjugates are lost inside an operator that is
called from a compiled graph.
"""

from typing import Any

import torch
from torch import Tensor

from .._core.complex import as_complex
from . import chunked, reference
from .spec import CauchyInputs, VandermondeInputs


def to_parts(numbers: Tensor) -> Tensor:
    """Numbers as parts."""
    return torch.view_as_real(numbers.resolve_conj()) if numbers.is_complex() else numbers.unsqueeze(-1)


def to_numbers(parts: Tensor) -> Tensor:
    """Parts as numbers."""
    return as_complex(parts) if parts.shape[-1] == 2 else parts.squeeze(-1)


def empty_taps(residues: Tensor, log_poles: Tensor, length: int) -> Tensor:
    """A buffer for the impulse responses."""
    return residues.new_empty(*residues.shape[:2], length)


def empty_resolvents(v: Tensor, poles: Tensor, length: int) -> Tensor:
    """A buffer for the resolvents."""
    return v.new_empty(*v.shape[:2], length // 2 + 1, 2)


def empty_gradients(weights: Tensor, poles: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Buffers for the gradients of the weights and of the poles."""
    return weights.new_empty(weights.shape), poles.new_empty(poles.shape)


def keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    """Save for the backward."""
    *tensors, ctx.length = inputs
    ctx.save_for_backward(*tensors)


def vandermonde_gradients(residues: Tensor, log_poles: Tensor, dtaps: Tensor) -> tuple[Tensor, ...]:
    """Differentiable form of the backward of the Vandermonde product."""
    taps = chunked.vandermonde(VandermondeInputs(to_numbers(residues), to_numbers(log_poles), dtaps.shape[-1]))
    return torch.autograd.grad(taps, (residues, log_poles), dtaps, create_graph=True)


def cauchy_gradients(v: Tensor, poles: Tensor, length: int, dr: Tensor) -> tuple[Tensor, ...]:
    """Differentiable form of the backward of the Cauchy product."""
    r = torch.view_as_real(reference.cauchy(CauchyInputs(to_numbers(v), to_numbers(poles), length)))
    return torch.autograd.grad(r, (v, poles), dr, create_graph=True)
