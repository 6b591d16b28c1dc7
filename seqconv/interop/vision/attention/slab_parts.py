"""What the readers of xinghaochen/SLAB's classifiers share.

Read in ``classification/models/prepbn.py`` (LinearNorm, RepBN) and in the attentions of
``slab_{deit,swin,pvt,cswin}.py`` at f58db00b.
"""

import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...importer import Weights
from ..parts import PAIR, class_name, named, require_checked, take_pairs

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
MLP = {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}


def check_training(original: str, hyper: Mapping[str, Any], layer_eps: float) -> None:
    """Raise for dropout, which seqconv's classifiers have none of, and for a norm that training would begin otherwise.

    Args:
        original: what is imported, for messages.
        hyper: its hyper-parameters, ``norm_layer`` as a class, its name, or ``functools.partial`` of one.
        layer_eps: ε of the layer norm that training begins with.

    Raises:
        ValueError: a rate other than 0, other norms or arguments.
    """
    require_checked(original, SimpleNamespace(**hyper), {"drop_rate": 0.0, "attn_drop_rate": 0.0})
    norm = hyper.get("norm_layer")
    bound = dict(norm.keywords) if isinstance(norm, partial) else {}
    name = class_name(norm.func if isinstance(norm, partial) else norm).lower()
    first, second = bound.get("norm1"), class_name(bound.get("norm2", "repbn")).lower()
    layer = first is None or _layer_eps(first) == layer_eps
    both = name == "linearnorm" and layer and second == "repbn" and bound.get("r0", 1.0) == 1.0
    if norm is not None and name != "repbn" and not both:
        wanted = f"RepBN, or LinearNorm of a LayerNorm of eps={layer_eps} and RepBN with r0=1.0"
        got, remedy = f"norm_layer={class_name(norm)}", "these alone were checked"
        raise argument_error(f"from_original({original!r})", got, wanted, remedy)


def _layer_eps(norm: Any) -> float | None:
    """ε of a layer norm, a class or its name with what is bound to it; ``None`` of other norms."""
    known = re.fullmatch(r"layernorm(?:\(eps=([-+.e\d]+)\))?", class_name(norm).lower())
    return known and float(known[1] or 1e-5)


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
