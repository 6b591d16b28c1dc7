"""raoyongming/GFNet: the classifiers in stages.

Read in ``gfnet.py`` (GFNetPyramid, BlockLayerScale, DownLayer) at 2de48b62.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...vision.backbones.backbone import ImageClassifier
from ...zoo.gfnet import HIERARCHICAL, gfnet_stages
from ..importer import Weights, add_importer, options
from .parts import count_parts, named, require_names, take_pairs

DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "num_classes": 1000, "embed_dim": (64, 128, 256, 512), "depth": (2, 2, 10, 4),
    "mlp_ratio": (4, 4, 4, 4), "drop_path_rate": 0.0, "init_values": 1e-3, "no_layerscale": False,
}  # fmt: skip
IGNORED = ("norm_layer", "drop_rate", "dropcls", "patch_size")
MODULES = {"mixer_norm": "norm1", "mlp_norm": "norm2", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original, whose patches are 4 by 4 pixels."""
    o = _read(hyper)
    backbone = gfnet_stages(
        o.embed_dim,
        o.depth,
        layer_scale=None if o.no_layerscale else float(o.init_values),
        mlp_ratios=[float(ratio) for ratio in o.mlp_ratio],
        image_size=o.img_size,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read(hyper)
    names = {"backbone.stem.proj": "patch_embed.0.proj", "backbone.norm": "norm", "head": "head"}
    names |= {f"backbone.downsamplings.{i}.conv": f"patch_embed.{i + 1}.proj" for i in range(len(o.depth) - 1)}
    positions = weights.take("pos_embed")[0]
    converted = take_pairs(weights, names)
    converted["backbone.positions.0"] = positions.unflatten(0, (math.isqrt(len(positions)), -1))
    for stage, depth in enumerate(o.depth):
        for index in range(depth):
            block = weights.part(f"blocks.{stage}.{index}.")
            found = take_pairs(block, MODULES) | {"mixer.weight": block.take("filter.complex_weight")}
            if not o.no_layerscale:
                found["mlp_residual.weight"] = block.take("gamma")
            converted |= named(f"backbone.stages.{stage}.{index}", found)
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    stages = [weights.part(f"blocks.{i}.") for i in range(count_parts(weights, "blocks.{}.0.filter.complex_weight"))]
    if not stages or "pos_embed" not in weights:
        return {}
    dims = [len(stage.peek("0.norm1.weight")) for stage in stages]
    hidden = [len(stage.peek("0.mlp.fc1.weight")) for stage in stages]
    return {
        "embed_dim": dims, "depth": [count_parts(stage, "{}.norm1.weight") for stage in stages],
        "mlp_ratio": [inner / dim for inner, dim in zip(hidden, dims, strict=True)],
        "img_size": 4 * math.isqrt(weights.peek("pos_embed").shape[1]), "no_layerscale": "0.gamma" not in stages[0],
        "num_classes": len(weights.peek("head.weight")),
    }  # fmt: skip


def _read(hyper: Mapping[str, Any]) -> Any:
    require_names(HIERARCHICAL, hyper, norm_layer=("layernorm(eps=1e-06)",))
    return options(HIERARCHICAL, hyper, DEFAULTS, IGNORED)


add_importer(HIERARCHICAL, build=build, convert=convert, infer=infer)
