"""Where the Cauchy product is evaluated."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def half_angle_nodes(length: int, like: Tensor) -> tuple[Float[Tensor, " frequencies"], Float[Tensor, " frequencies"]]:
    """``(sin(pi f / length), cos(pi f / length))`` for f = 0 .. length // 2, rounded once.

    Of the real dtype of ``like``; the last cosine of an even length is exactly 0.
    """
    f = torch.arange(length // 2 + 1, device=like.device).double()
    sine = torch.sin(f * (math.pi / length))
    cosine = torch.sin((length - 2 * f) * (math.pi / (2 * length)))
    return sine.to(like.real.dtype), cosine.to(like.real.dtype)
