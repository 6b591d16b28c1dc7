"""What the readers of xinghaochen/SLAB's classifiers share.

Read in ``classification/models/prepbn.py`` (LinearNorm, RepBN) and in the attentions of
``slab_{deit,swin,pvt,cswin}.py`` at f58db00b.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...importer import Weights
from ..parts import PAIR, named, take_pairs

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
MLP = {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}


def prep_norm(weights: Weights) -> dict[str, Tensor]:
    """A norm with both of its parts, and its place in the course of training."""
    if "bn.weight" in weights:
        return _trained_norm(weights)
    found = take_pairs(weights, {"layer": "norm1", "batch.tokens": "norm2.bn"})
    found |= take_pairs(weights, {"batch.tokens": "norm2.bn"}, STATISTICS)
    found |= {"alpha": weights.take("norm2.alpha")}
    steps = {"remaining": "iter", "total": "total_step", "warmup_remaining": "warm"}
    return found | {name: weights.take(source) for name, source in steps.items()}


def _trained_norm(weights: Weights) -> dict[str, Tensor]:
    """A norm after its training, which has lost the part of the layer norm (RepBN)."""
    found = {"alpha": weights.take("alpha")} | take_pairs(weights, {"batch.tokens": "bn"})
    found |= take_pairs(weights, {"batch.tokens": "bn"}, STATISTICS)
    scale, ended = weights.peek("bn.weight").detach(), torch.zeros((), dtype=torch.int64)
    found |= {"layer.weight": torch.ones_like(scale), "layer.bias": torch.zeros_like(scale)}
    return found | {name: ended.clone() for name in ("remaining", "total", "warmup_remaining")}


def prep_norms(weights: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Norms by their names here and there."""
    converted = dict[str, Tensor]()
    for name, source in names.items():
        converted |= named(name, prep_norm(weights.part(f"{source}.")))
    return converted


def linear_attention(weights: Weights, qkv: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SLAB's attention with joined queries, keys and values; its positions are those of a square."""
    positions = weights.take("positional_encoding")[0]
    side = square("positional_encoding", len(positions))
    found = take_pairs(weights, {"conv2d": "dwc"}) | {"positions": positions.unflatten(0, (side, side))}
    return found | {f"qkv_proj.{kind}": tensor for kind, tensor in qkv.items()}


def pair(weights: Weights, name: str, bias: bool) -> dict[str, Tensor]:
    """Weight of a projection, and its bias if it has one."""
    return {kind: weights.take(f"{name}.{kind}") for kind in kinds(bias)}


def kinds(bias: bool) -> Iterable[str]:
    """Tensors of a projection."""
    return PAIR if bias else PAIR[:1]


def square(what: str, count: int) -> int:
    """Side of a square, from its number of cells.

    Raises:
        ValueError: another number.
    """
    side = math.isqrt(count)
    if side * side != count:
        wanted = "those of a square"
        raise argument_error("from_original", f"{what} of {count} cells", wanted, "the originals have no others")
    return side
