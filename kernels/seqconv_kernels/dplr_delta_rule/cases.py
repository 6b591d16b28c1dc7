"""Shapes of the generalised delta rule in published models, and example inputs of any shape."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .._linear_attention.cases import HeadSizes, normal_draws


@dataclass(frozen=True)
class Shape(HeadSizes):
    """Sizes of one call; the keys may have fewer heads than the values."""

    key_heads: int | None = None


SHAPES = {
    "tiny": Shape(2, 37, 4, 6, 5, key_heads=2),
    "rwkv7-1.5b, 2048 tokens": Shape(1, 2048, 32, 64, 64),
}


def example_inputs(
    shape: Shape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    decay: Literal["vector", "scalar", "none"] = "vector",
    low_rank: Literal["own", "key"] = "own",
    initial_state: bool = False,
) -> dict[str, Tensor]:
    """Keyword arguments of :func:`seqconv_kernels.dplr_delta_rule`, as in RWKV-7; ``low_rank="key"`` has no ``b``."""
    normal = normal_draws(seed)
    tokens, key_heads = (shape.batch, shape.length), shape.key_heads or shape.heads

    unit = F.normalize(normal(*tokens, key_heads, shape.d_k), dim=-1)
    tensors = {
        "q": normal(*tokens, key_heads, shape.d_k),
        "k": unit if low_rank == "key" else normal(*tokens, key_heads, shape.d_k),
        "v": normal(*tokens, shape.heads, shape.d_v),
        "a": -unit,
    }
    if low_rank == "own":
        tensors["b"] = unit * normal(*tokens, key_heads, shape.d_k).sigmoid()
    if decay != "none":
        tensors["log_decay"] = F.logsigmoid(normal(*tokens, shape.heads, *[shape.d_k] * (decay == "vector")))
    if initial_state:
        tensors["initial_state"] = normal(shape.batch, shape.heads, shape.d_k, shape.d_v)
    return {name: t.to(device, dtype) for name, t in tensors.items()}
