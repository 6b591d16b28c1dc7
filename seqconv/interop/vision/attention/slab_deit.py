"""xinghaochen/SLAB: DeiT with simplified linear attention, or with its own attention and SLAB's norms.

Read in ``classification/models/slab_deit.py`` and ``deit.py`` (VisionTransformer, Attention) and ``prepbn.py``
(LinearNorm, RepBN) at f58db00b. With SLAB's attention the class token is stored there and takes no part. Norms may be
those in training or what is left after it (RepBN). Checkpoints whose norms were merged into the projections are not
read.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....zoo.attention.slab import DEIT, deit_prepbn, slab_deit
from ...importer import Weights, add_importer, options
from ..parts import count_parts, named, require_names, take_pairs
from .slab_parts import MLP, check_training, linear_attention, pair, prep_norms, square

MODEL = "xinghaochen/SLAB:VisionTransformer"
DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dim": 768, "depth": 12,
    "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": True, "representation_size": None, "distilled": False,
    "drop_path_rate": 0.0,
}  # fmt: skip
PREP_EPS = 1e-6
"""Of the layer norms that training begins with."""
IGNORED = ("drop_rate", "attn_drop_rate", "embed_layer", "norm_layer", "act_layer", "weight_init")
GRID = 14
"""Rows and columns of patches that the original's attention has positions for."""


HEAD_WIDTH = 64
"""Channels of a head of softmax attention in all published models."""


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(hyper)
    backbone = slab_deit(
        o.embed_dim,
        o.num_heads,
        depth=o.depth,
        image_size=o.img_size,
        patch_size=o.patch_size,
        qkv_bias=o.qkv_bias,
        mlp_ratio=float(o.mlp_ratio),
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read(hyper)
    weights.ignore("cls_token")
    positions = weights.take("pos_embed")[0].unflatten(0, (GRID, GRID))
    names = {"backbone.stem.proj": "patch_embed.proj"} | ({"head": "head"} if o.num_classes else {})
    converted = {"backbone.position_embedding": positions} | take_pairs(weights, names)
    converted |= prep_norms(weights, {"backbone.norm": "norm"})
    for index in range(o.depth):
        block = weights.part(f"blocks.{index}.")
        found = take_pairs(block, MLP | {"mixer.out_proj": "attn.proj"})
        found |= prep_norms(block, {"mixer_norm": "norm1", "mlp_norm": "norm2"})
        attention = block.part("attn.")
        found |= named("mixer", linear_attention(attention, pair(attention, "qkv", o.qkv_bias)))
        converted |= named(f"backbone.blocks.{index}", found)
    return converted


def build_softmax(**hyper: Any) -> ImageClassifier:
    """The classifier of softmax attention with the options of the original."""
    o = _read_softmax(hyper)
    backbone = deit_prepbn(
        o.embed_dim,
        o.num_heads,
        depth=o.depth,
        image_size=o.img_size,
        patch_size=o.patch_size,
        qkv_bias=o.qkv_bias,
        mlp_ratio=float(o.mlp_ratio),
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert_softmax(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier of softmax attention."""
    o = _read_softmax(hyper)
    positions = weights.take("pos_embed")[0]
    side = square("pos_embed", len(positions) - 1)
    names = {"backbone.patch_embedding": "patch_embed.proj"} | ({"head": "head"} if o.num_classes else {})
    converted = {
        "backbone.position_embedding": positions[1:].unflatten(0, (side, side)),
        "backbone.cls_position_embedding": positions[0], "backbone.cls_token": weights.take("cls_token")[0, 0],
    }  # fmt: skip
    converted |= take_pairs(weights, names) | prep_norms(weights, {"backbone.norm": "norm"})
    for index in range(o.depth):
        block = weights.part(f"blocks.{index}.")
        found = take_pairs(block, MLP | {"mixer.o_proj": "attn.proj"})
        found |= prep_norms(block, {"mixer_norm": "norm1", "mlp_norm": "norm2"})
        found |= named("mixer.qkv_proj", pair(block, "attn.qkv", o.qkv_bias))
        converted |= named(f"backbone.blocks.{index}", found)
    return converted


def infer_softmax(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors; heads of softmax attention as published, 64 wide."""
    if "pos_embed" not in weights or "blocks.0.attn.dwc.weight" in weights:
        return {}
    patches = weights.peek("pos_embed").shape[1] - 1
    found = _sizes(weights, "blocks.{}.attn.qkv.weight", patches)
    return found | {"num_heads": max(found["embed_dim"] // HEAD_WIDTH, 1)}


def _sizes(weights: Weights, block: str, patches: int) -> dict[str, Any]:
    patch = weights.peek("patch_embed.proj.weight")
    return {
        "depth": count_parts(weights, block), "embed_dim": len(patch), "in_chans": patch.shape[1],
        "patch_size": patch.shape[-1], "img_size": math.isqrt(patches) * patch.shape[-1],
        "mlp_ratio": len(weights.peek("blocks.0.mlp.fc1.weight")) / len(patch),
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes but the heads, from the shapes of the tensors; a head is as wide as its convolution."""
    if "pos_embed" not in weights or "blocks.0.attn.dwc.weight" not in weights:
        return {}
    found = _sizes(weights, "blocks.{}.attn.dwc.weight", weights.peek("pos_embed").shape[1])
    return found | {"num_heads": found["embed_dim"] // len(weights.peek("blocks.0.attn.dwc.weight"))}


def _read(hyper: Mapping[str, Any]) -> Any:
    o = options(MODEL, hyper, DEFAULTS, IGNORED)
    check_training(MODEL, hyper, PREP_EPS)
    require_names(MODEL, hyper, act_layer=("gelu",), embed_layer=("patchembed",))
    if o.representation_size or o.distilled or o.img_size // o.patch_size != GRID:
        got = f"representation_size={o.representation_size}, distilled={o.distilled}, img_size={o.img_size}, "
        got += f"patch_size={o.patch_size}"
        wanted = f"None, False, {GRID} by {GRID} patches"
        raise argument_error(f"from_original({MODEL!r})", got, wanted, "the original has no others")
    return o


def _read_softmax(hyper: Mapping[str, Any]) -> Any:
    o = options(DEIT, hyper, DEFAULTS, IGNORED)
    check_training(DEIT, hyper, PREP_EPS)
    require_names(DEIT, hyper, act_layer=("gelu",), embed_layer=("patchembed",))
    if o.representation_size or o.distilled:
        got = f"representation_size={o.representation_size}, distilled={o.distilled}"
        raise argument_error(f"from_original({DEIT!r})", got, "None, False", "these alone were checked")
    return o


add_importer(MODEL, build=build, convert=convert, infer=infer)
add_importer(DEIT, build=build_softmax, convert=convert_softmax, infer=infer_softmax)
