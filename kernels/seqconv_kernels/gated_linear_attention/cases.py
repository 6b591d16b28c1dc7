"""Shapes of gated linear attention in published models, and example inputs of any shape."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .._linear_attention.cases import HeadSizes, normal_draws


@dataclass(frozen=True)
class Shape(HeadSizes):
    """Sizes of one call; keys and values may have fewer heads than the queries."""

    kv_heads: int | None = None


SHAPES = {
    "tiny": Shape(2, 37, 4, 6, 5, kv_heads=2),
    "8 heads of 64, 4096 tokens": Shape(1, 4096, 8, 64, 64),
    "gla-340m, 2048 tokens": Shape(1, 2048, 4, 128, 256),
    "retnet-1.3b, 2048 tokens": Shape(1, 2048, 8, 256, 512),
}


def example_inputs(
    shape: Shape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    decay: Literal["vector", "scalar", "constant", "none"] = "vector",
    initial_state: bool = False,
) -> dict[str, Tensor]:
    """Keyword arguments of :func:`seqconv_kernels.gated_linear_attention`."""
    draw = normal_draws(seed)
    kv_heads = shape.kv_heads or shape.heads

    def normal(*size: int) -> Tensor:
        return draw(*size).to(device, dtype)

    tensors = {
        "q": normal(shape.batch, shape.length, shape.heads, shape.d_k),
        "k": normal(shape.batch, shape.length, kv_heads, shape.d_k),
        "v": normal(shape.batch, shape.length, kv_heads, shape.d_v),
    }
    if decay == "constant":
        tensors["g_gamma"] = torch.nn.functional.logsigmoid(normal(kv_heads))
    elif decay != "none":
        logits = normal(shape.batch, shape.length, kv_heads, *[shape.d_k] * (decay == "vector"))
        tensors["log_decay"] = torch.nn.functional.logsigmoid(logits)
    if initial_state:
        tensors["initial_state"] = normal(shape.batch, kv_heads, shape.d_k, shape.d_v)
    return tensors
