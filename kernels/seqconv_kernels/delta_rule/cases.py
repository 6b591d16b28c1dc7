"""Shapes of the delta rule in published models, and example inputs of any shape."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._linear_attention.cases import HeadSizes, normal_draws


@dataclass(frozen=True)
class Shape(HeadSizes):
    """Sizes of one call; the values may have more heads than the keys."""

    v_heads: int | None = None


SHAPES = {
    "tiny": Shape(2, 37, 2, 6, 5, v_heads=4),
    "8 heads of 64, 4096 tokens": Shape(1, 4096, 8, 64, 64),
    "gated-deltanet-1.3b, 2048 tokens": Shape(1, 2048, 6, 256, 512),
    "qwen3-next-80b, 2048 tokens": Shape(1, 2048, 16, 128, 128, v_heads=32),
}


def example_inputs(
    shape: Shape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    decay: Literal["vector", "scalar", "none"] = "scalar",
    initial_state: bool = False,
) -> dict[str, Tensor]:
    """Keyword arguments of :func:`seqconv_kernels.delta_rule`, with keys of unit length."""
    normal = normal_draws(seed)
    v_heads = shape.v_heads or shape.heads

    tokens = (shape.batch, shape.length)
    tensors = {
        "q": F.normalize(normal(*tokens, shape.heads, shape.d_k), dim=-1),
        "k": F.normalize(normal(*tokens, shape.heads, shape.d_k), dim=-1),
        "v": normal(*tokens, v_heads, shape.d_v),
        "beta": normal(*tokens, v_heads).sigmoid(),
    }
    if decay != "none":
        tensors["log_decay"] = F.logsigmoid(normal(*tokens, v_heads, *[shape.d_k] * (decay == "vector")))
    if initial_state:
        tensors["initial_state"] = normal(shape.batch, v_heads, shape.d_k, shape.d_v)
    return {name: t.to(device, dtype) for name, t in tensors.items()}
