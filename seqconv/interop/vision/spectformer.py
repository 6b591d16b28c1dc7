"""badripatro/SpectFormers: plain classifiers.

Read in ``vanilla_architecture/spectformer.py`` (SpectFormer, Block, Block_attention) at b6cf487a: four blocks of
filters in the spectrum, then attention with six heads.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier
from ...zoo.spectformer import NUM_HEADS, spectformer
from ..importer import Weights, add_importer, options
from .parts import require_names

MODEL = "badripatro/SpectFormers:SpectFormer"
DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dim": 768, "depth": 12,
    "mlp_ratio": 4.0, "drop_path_rate": 0.0, "representation_size": None, "uniform_drop": False,
}  # fmt: skip


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(hyper)
    backbone = spectformer(
        o.embed_dim,
        o.depth,
        image_size=o.img_size,
        patch_size=o.patch_size,
        in_channels=o.in_chans,
        mlp_ratio=float(o.mlp_ratio),
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o, moved = _read(hyper), {"stem.proj": "patch_embed.proj", "norm": "norm"}
    positions = weights.take("pos_embed")[0]
    converted = {"backbone.position_embedding": positions.unflatten(0, (math.isqrt(len(positions)), -1))}
    for index in range(o.depth):
        block = f"blocks.{index}"
        moved |= {f"{block}.mixer_norm": f"{block}.norm1", f"{block}.mlp_norm": f"{block}.norm2"}
        moved |= {f"{block}.mlp.up": f"{block}.mlp.fc1", f"{block}.mlp.down": f"{block}.mlp.fc2"}
        if f"{block}.filter.complex_weight" in weights:
            converted[f"backbone.{block}.mixer.weight"] = weights.take(f"{block}.filter.complex_weight")
        else:
            moved[f"{block}.mixer.mixers.0.qkv_proj"] = f"{block}.attn.qkv"
            moved[f"{block}.mixer.mixers.0.o_proj"] = f"{block}.attn.proj"
    names = {f"backbone.{name}": source for name, source in moved.items()}
    for name, source in (names | ({"head": "head"} if o.num_classes else {})).items():
        converted |= {f"{name}.{kind}": weights.take(f"{source}.{kind}") for kind in ("weight", "bias")}
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    if "pos_embed" not in weights or "blocks.0.filter.complex_weight" not in weights:
        return {}
    depth, patch = 0, weights.peek("patch_embed.proj.weight")
    while f"blocks.{depth}.norm1.weight" in weights:
        depth += 1
    return {
        "depth": depth, "embed_dim": len(patch), "in_chans": patch.shape[1], "patch_size": patch.shape[-1],
        "img_size": math.isqrt(weights.peek("pos_embed").shape[1]) * patch.shape[-1],
        "mlp_ratio": len(weights.peek("blocks.0.mlp.fc1.weight")) / len(patch),
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def _read(hyper: Mapping[str, Any]) -> Any:
    o = options(MODEL, hyper, DEFAULTS, ("drop_rate", "norm_layer", "dropcls"))
    require_names(MODEL, hyper, norm_layer=("layernorm(eps=1e-06)",))
    if o.representation_size is not None or o.uniform_drop or o.embed_dim % NUM_HEADS:
        got = f"representation_size={o.representation_size}, uniform_drop={o.uniform_drop}, embed_dim={o.embed_dim}"
        wanted = f"None, False, and a width that {NUM_HEADS} heads divide"
        raise argument_error(f"from_original({MODEL!r})", got, wanted, "these alone were checked")
    return o


add_importer(MODEL, build=build, convert=convert, infer=infer)
