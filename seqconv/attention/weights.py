"""Attention weights of a single head from scores: softmax, or the element-wise functions of MEGA.

With ``s = q·k``: softmax of ``s / √d_k + bias`` over the visible keys; or ``f(s / n + bias)`` for each visible key,
n the number of keys that the query could see, f the squared ReLU or the Laplace function
``½ (1 + erf((s - μ) / (σ √2)))`` with μ = 0.707107 and σ = 0.282095 (near √½ and √(1/4π), where it meets relu²).

Source: Ma et al. 2022 (arXiv 2209.10655), facebookresearch/mega.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqconv_kernels._core.precision import accumulation_dtype

from .bias import PositionBias
from .pattern import View, visible

FUNCTIONS = ("softmax", "laplace", "relu2")
LAPLACE_MEAN, LAPLACE_DEVIATION = 0.707107, 0.282095


def attention_weights(
    function: str,
    q: Float[Tensor, "batch blocks queries d_k"],
    k: Float[Tensor, "batch blocks keys d_k"],
    view: View,
    bias: PositionBias,
) -> Float[Tensor, "batch blocks queries keys"]:
    """Weights of every query and key, zero where the query does not see the key; float32 at least."""
    scores = (q @ k.transpose(-1, -2)).to(accumulation_dtype(q))
    seen, learned = visible(view), bias(view)
    if function == "softmax":
        scores = scores * q.shape[-1] ** -0.5 + learned
        return torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    scores = scores / _count_keys(seen, view) + learned
    return _element(function, scores).masked_fill(~seen, 0)


def _count_keys(seen: Tensor, view: View) -> Tensor:
    if view.causal:
        return view.position[..., None] + 1
    return seen.sum(-1, keepdim=True)


def _element(function: str, scores: Tensor) -> Tensor:
    if function == "relu2":
        return F.relu(scores).square()
    return 0.5 * (1 + torch.erf((scores - LAPLACE_MEAN) / (LAPLACE_DEVIATION * math.sqrt(2))))
