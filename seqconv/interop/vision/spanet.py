"""DoranLyong/SPANet-official: the block and the classifiers.

Read in ``image_classification/spanet.py`` (SPF, SPAM, SPANetBlock, SPANet) at 886ad24d. The masks of frequencies are
computed here for every size of images; stored ones must be those of the radius.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier
from ...vision.backbones.block import Block2d
from ...vision.mixers.frequency.spectral_pooling import SHARES, SpectralPooling2d, circle_mask
from ...zoo.spanet import RADII, STREAM_SCALES, spanet
from ..importer import Weights, add_importer, options
from .parts import count_parts, named, take_pairs

BLOCK, MODEL = "DoranLyong/SPANet-official:SPANetBlock", "DoranLyong/SPANet-official:SPANet"
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "k_size": 7, "patch_dim": 56, "r": 2, "mlp_ratio": 4.0, "drop_path": 0.0, "res_scale_init_value": None,
}  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "layers": ..., "embed_dims": ..., "patch_dims": None, "mlp_ratios": (4.0, 4.0, 4.0, 4.0), "k_size": 7,
    "radius": RADII, "num_classes": 1000, "drop_path_rate": 0.0, "res_scale_init_values": STREAM_SCALES,
}  # fmt: skip
IGNORED = ("downsamples", "drop_rate")
PROJECTIONS = {
    "mixer.in_proj": "token_mixer.proj_in", "mixer.out_proj": "token_mixer.proj_out", "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}  # fmt: skip
MODULES = {
    "mixer_norm": "norm1", "mlp_norm": "norm2", "mixer.conv_w": "token_mixer.conv.0",
    "mixer.conv_h": "token_mixer.conv.1",
}  # fmt: skip
MASK_ERROR = 1e-6


def build_block(**hyper: Any) -> Block2d:
    """The block, on feature maps with channels last."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, ("map", "drop"))
    mixer = SpectralPooling2d(o.dim, d_conv=o.k_size, radius=float(o.r))
    scale = o.res_scale_init_value or None
    return Block2d(mixer, norm="image", mlp_ratio=float(o.mlp_ratio), stream_scale=scale, drop_path=float(o.drop_path))


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block; the projections of the three chunks of channels are one."""
    o, kinds = options(BLOCK, hyper, BLOCK_DEFAULTS, ("map", "drop")), ("weight", "bias")
    converted = {
        f"{name}.{kind}": weights.take(f"{source}.{kind}") for name, source in MODULES.items() for kind in kinds
    }
    for name, source in PROJECTIONS.items():
        converted[f"{name}.weight"] = weights.take(f"{source}.weight").flatten(1)
        converted[f"{name}.bias"] = weights.take(f"{source}.bias")
    contexts = [weights.part(f"token_mixer.pws.{i}.") for i in range(len(SHARES))]
    converted["mixer.context_proj.weight"] = torch.cat([c.take("weight").flatten(1) for c in contexts], dim=1)
    converted["mixer.context_proj.bias"] = torch.stack([c.take("bias") for c in contexts]).sum(0)
    for index, share in enumerate(SHARES):
        _check_mask(weights.take(f"token_mixer.sps.{index}.filter"), float(o.r), share)
    if o.res_scale_init_value:
        converted["mixer_residual.stream_weight"] = weights.take("res_scale1.scale")
        converted["mlp_residual.stream_weight"] = weights.take("res_scale2.scale")
    return converted


def _check_mask(stored: Tensor, radius: float, share: float) -> None:
    """Raise for a mask of another radius."""
    rows, columns = stored.shape[-2:]
    wanted = torch.fft.fftshift(circle_mask(rows, columns, radius, share))
    if (stored[0].detach().to(wanted) - wanted).abs().max() > MASK_ERROR:
        got, remedy = f"a filter that is not that of r={radius:g}", "pass the radius r of the layer"
        raise argument_error(f"from_original({BLOCK!r})", got, "the filter of the radius", remedy)


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original, for images of any size."""
    o = options(MODEL, hyper, DEFAULTS, IGNORED)
    backbone = spanet(
        o.embed_dims,
        o.layers,
        radii=[float(radius) for radius in o.radius],
        d_conv=o.k_size,
        stream_scales=[scale or None for scale in o.res_scale_init_values],
        mlp_ratio=[float(ratio) for ratio in o.mlp_ratios],
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier; stages and what lies between them alternate there."""
    o = options(MODEL, hyper, DEFAULTS, IGNORED)
    names = {"backbone.stem.proj": "patch_embed.proj", "backbone.norm": "norm"}
    converted = take_pairs(weights, names | ({"head": "head"} if o.num_classes else {}))
    for stage, depth in enumerate(o.layers):
        if stage:
            source = f"network.{2 * stage - 1}.proj"
            converted |= take_pairs(weights, {f"backbone.downsamplings.{stage - 1}.conv": source})
        for index in range(depth):
            block = {"dim": o.embed_dims[stage], "r": o.radius[stage]}
            block["res_scale_init_value"] = o.res_scale_init_values[stage]
            found = convert_block(weights.part(f"network.{2 * stage}.{index}."), block)
            converted |= named(f"backbone.stages.{stage}.{index}", found)
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes but the radii, from the shapes of the tensors."""
    stages: list[Weights] = []
    while f"network.{2 * len(stages)}.0.norm1.weight" in weights:
        stages.append(weights.part(f"network.{2 * len(stages)}."))
    if not stages:
        return {}
    return {
        "layers": [count_parts(stage, "{}.norm1.weight") for stage in stages],
        "embed_dims": [len(stage.peek("0.norm1.weight")) for stage in stages],
        "mlp_ratios": [len(stage.peek("0.mlp.fc1.bias")) / len(stage.peek("0.norm1.weight")) for stage in stages],
        "k_size": stages[0].peek("0.token_mixer.conv.0.weight").shape[-1],
        "res_scale_init_values": [1.0 if "0.res_scale1.scale" in stage else None for stage in stages],
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


add_importer(BLOCK, build=build_block, convert=convert_block)
add_importer(MODEL, build=build, convert=convert, infer=infer)
