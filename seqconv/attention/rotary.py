"""Rotary positions: pairs of channels turned by an angle that grows with the position (Su et al. 2021, RoFormer).

``R_t x = (x_1 cos tθ - x_2 sin tθ, x_2 cos tθ + x_1 sin tθ)`` with ``(x_1, x_2)`` the halves of a head and
``θ_i = base^(-2i/d)``, so that ``R_m q · R_n k`` depends on m - n alone.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqconv_kernels._core.precision import accumulation_dtype


def rotate(
    x: Float[Tensor, "batch length heads head_dim"],
    position: Int[Tensor, "#batch length"],
    base: float,
    scaling: float = 1.0,
) -> Float[Tensor, "batch length heads head_dim"]:
    """Turn every head of every token to its position over ``scaling``; computed in float32 at least."""
    dtype = accumulation_dtype(x)
    half = x.shape[-1] // 2
    rates = base ** -(torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = (position[..., None].to(dtype) / scaling * rates)[:, :, None]
    first, second = x.to(dtype).chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
