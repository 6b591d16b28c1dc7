"""K-H-Ismail/ConvNeXt-dcls: the classifiers of images.

Read in ``models/convnext_dcls.py`` (ConvNeXt_dcls, Block) at aad45f38. The positions of a stage are one parameter,
which checkpoints hold under the name of each of its blocks; those of rows come first, as in ``Dcls2d``'s version
``"v0"``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier
from ...zoo.convnext_dcls import DEPTHS, DIMS, ORIGINAL, SPAN, convnext_dcls
from ..importer import Weights, add_importer, options
from .parts import PAIR, count_parts, named, take_pairs

DEFAULTS: Mapping[str, Any] = {
    "in_chans": 3, "num_classes": 1000, "depths": DEPTHS, "dims": DIMS, "drop_path_rate": 0.0,
    "layer_scale_init_value": 1e-6, "dcls_kernel_size": SPAN, "dcls_kernel_count": 34,
}  # fmt: skip
IGNORED = ("head_init_scale",)


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    backbone = convnext_dcls(
        o.depths, o.dims, o.dcls_kernel_count, span=o.dcls_kernel_size, layer_scale=o.layer_scale_init_value or None,
        drop_path=float(o.drop_path_rate), in_channels=o.in_chans,
    )  # fmt: skip
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    names = {"backbone.stem.proj": "downsample_layers.0.0", "backbone.stem.norm": "downsample_layers.0.1"}
    for stage in range(1, len(o.depths)):
        target, source = f"backbone.downsamplings.{stage - 1}", f"downsample_layers.{stage}"
        names |= {f"{target}.norm": f"{source}.0", f"{target}.conv": f"{source}.1"}
    converted = take_pairs(weights, names | {"backbone.pooled_norm": "norm", "head": "head"})
    for stage, depth in enumerate(o.depths):
        blocks = [weights.part(f"stages.{stage}.{index}.") for index in range(depth)]
        converted[f"backbone.shared.{stage}.position"] = _shared_positions(blocks, stage)
        for index, block in enumerate(blocks):
            found = _convert_block(block, scaled=bool(o.layer_scale_init_value))
            converted |= named(f"backbone.stages.{stage}.{index}", found)
    return converted


def _convert_block(block: Weights, *, scaled: bool) -> dict[str, Tensor]:
    found = take_pairs(block, {"mlp_norm": "norm", "mlp.up": "pwconv1", "mlp.down": "pwconv2"})
    taps, bias = (block.take(f"dwconv.{kind}") for kind in PAIR)
    found |= {"mixer.conv.filter.weight": taps.flatten(0, 1), "mixer.conv.bias": bias}
    return found | ({"mlp_residual.weight": block.take("gamma")} if scaled else {})


def _shared_positions(blocks: list[Weights], stage: int) -> Tensor:
    """The positions of a stage, which all of its blocks must have."""
    first, *others = [block.take("dwconv.P") for block in blocks]
    if not first.is_meta and not all(torch.equal(first, other) for other in others):
        got, wanted = f"positions P that differ between the blocks of stages.{stage}", "one P for each stage"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "pass a checkpoint of the original's model")
    return first.flatten(1, 2)


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes but that of the window, from the shapes of the tensors."""
    stages = [weights.part(f"stages.{stage}.") for stage in range(count_parts(weights, "stages.{}.0.dwconv.P"))]
    if not stages or "downsample_layers.0.0.weight" not in weights:
        return {}
    return {
        "depths": [count_parts(stage, "{}.dwconv.P") for stage in stages],
        "dims": [len(stage.peek("0.norm.weight")) for stage in stages],
        "in_chans": weights.peek("downsample_layers.0.0.weight").shape[1],
        "num_classes": len(weights.peek("head.weight")),
        "dcls_kernel_count": stages[0].peek("0.dwconv.P").shape[-1],
        "layer_scale_init_value": 1e-6 if "0.gamma" in stages[0] else 0.0,
    }


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
