"""Distillation by gradient descent on polar poles and free residues: the recipe of Laughing Hyena.

Kept for comparison. Objective ``sum_t |h[t] - h_d[t]|^2`` by Adam with a cosine schedule.
Source: Massaroli et al. 2023, arXiv 2310.18780.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from seqconv_kernels._core.complex import as_complex

from .poles import LARGEST
from .second_order import powers_of


def gradient_descent(
    g: Float[Tensor, "channels length"], order: int, *, steps: int = 2000, lr: float = 1e-2, seed: int = 0
) -> tuple[Complex[Tensor, "channels modes"], Complex[Tensor, "channels modes"]]:
    """Poles and (doubled) residues of ``order // 2`` conjugate pairs fitted to ``g``."""
    channels, pairs = g.shape[0], max(1, order // 2)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(channels, pairs, generator=generator, dtype=g.dtype)
    decay = torch.logit(0.9 + 0.09 * draw).requires_grad_()
    angle = (math.pi * torch.linspace(0.02, 0.98, pairs, dtype=g.dtype)).expand(channels, -1).clone().requires_grad_()
    residues = (0.01 * torch.randn(channels, pairs, 2, generator=generator, dtype=g.dtype)).requires_grad_()
    optimizer = torch.optim.Adam([decay, angle, residues], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        poles = torch.polar(LARGEST * decay.sigmoid(), angle)
        fitted = (powers_of(poles, g.shape[1]) * as_complex(residues)[:, :, None]).sum(1).real
        loss = (fitted - g).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    poles = torch.polar(LARGEST * decay.sigmoid(), angle).detach()
    return poles, as_complex(residues.detach())
