"""XuRuihan/ParCNetV2: the oversized convolution, the block and the classifiers.

Read in ``models/parcnetv2.py`` (OversizeConv2d, ParC_V2, BGU, LayerNormGeneral, ParCNetV2Block, ParCNetV2) at
b9d85247. A block whose norms have biases has PyTorch's layer norms, one without them those of the models.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier
from ...vision.backbones.block import Block2d
from ...vision.mixers.oversized import OversizeConv2d, Oversized2d
from ...zoo.parcnetv2 import GLOBAL_SIZES, STREAM_SCALES, parcnetv2
from ..importer import Weights, add_importer, options
from .parts import count_parts, named, take_pairs

CONV, BLOCK = "XuRuihan/ParCNetV2:OversizeConv2d", "XuRuihan/ParCNetV2:ParCNetV2Block"
MODEL = "XuRuihan/ParCNetV2:ParCNetV2"
CONV_DEFAULTS: Mapping[str, Any] = {"dim": ..., "kernel_size": ..., "bias": False, "interpolate": False}
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "global_kernel_size": 13, "local_kernel": 7, "mlp_ratio": 5.0, "drop_path": 0.0,
    "layer_scale_init_value": None, "res_scale_init_value": None, "norm": "unit", "bias": False,
}  # fmt: skip
"""Those of the block, of the size of its small convolution, and the name of its norm here."""
DEFAULTS: Mapping[str, Any] = {
    "in_chans": 3, "num_classes": 1000, "depths": (2, 2, 6, 2), "dims": (64, 128, 320, 512),
    "global_kernel_sizes": GLOBAL_SIZES, "drop_path_rate": 0.0, "layer_scale_init_values": None,
    "res_scale_init_values": STREAM_SCALES, "mlp_ratio": 5.0,
}  # fmt: skip
UNIT_EPS, LAYER_EPS = 1e-6, 1e-5
"""ε of the models' norms and of PyTorch's."""


def build_conv(**hyper: Any) -> OversizeConv2d:
    """The convolution, on feature maps with channels last."""
    o = options(CONV, hyper, CONV_DEFAULTS, ("map",))
    resize = False if o.interpolate is None else o.interpolate
    return OversizeConv2d(o.dim, o.kernel_size, bias=o.bias, resize=resize)


def convert_conv(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the convolution."""
    kinds = ("weight", "bias") if options(CONV, hyper, CONV_DEFAULTS, ("map",)).bias else ("weight",)
    return {name: weights.take(name) for name in (f"{conv}.{kind}" for conv in ("conv_h", "conv_w") for kind in kinds)}


def infer_conv(weights: Weights) -> dict[str, Any]:
    """Sizes, from the shapes of the tensors."""
    if "conv_h.weight" not in weights:
        return {}
    weight = weights.peek("conv_h.weight")
    return {"dim": len(weight), "kernel_size": weight.shape[2], "bias": "conv_h.bias" in weights}


def build_block(**hyper: Any) -> Block2d:
    """The block, on feature maps with channels last."""
    o = _read(hyper)
    mixer = Oversized2d(o.dim, global_size=o.global_kernel_size, d_conv=o.local_kernel, bias=o.bias)
    return Block2d(mixer, drop_path=float(o.drop_path), **block_options(o))


def block_options(o: Any) -> dict[str, Any]:
    """Options of the blocks; a scale of 0 is none, as there."""
    scales = {"layer_scale": o.layer_scale_init_value or None, "stream_scale": o.res_scale_init_value or None}
    eps = UNIT_EPS if o.norm == "unit" else LAYER_EPS
    return {
        "norm": o.norm, "norm_eps": eps, "mlp": "geglu", "mlp_ratio": o.mlp_ratio / 2, "mlp_down_bias": o.bias,
        **scales,
    }  # fmt: skip


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block; the network's gate is its second half there."""
    o, mixer, mlp = _read(hyper), weights.part("token_mixer."), weights.part("mlp.")
    kinds = ("weight", "bias") if o.bias else ("weight",)
    converted = {
        "mixer.in_proj.weight": mixer.take("pwconv1.weight").flatten(1),
        "mixer.in_proj.bias": mixer.take("pwconv1.bias"),
        "mixer.out_proj.weight": mixer.take("pwconv2.weight").flatten(1),
        "mlp.down.weight": mlp.take("fc2.weight"),
    }
    if o.bias:
        converted |= {"mixer.out_proj.bias": mixer.take("pwconv2.bias"), "mlp.down.bias": mlp.take("fc2.bias")}
    for name, source in {"conv2d": "dwconv2", "oversize_conv.conv_h": "dwconv1.conv_h"}.items():
        converted |= {f"mixer.{name}.{kind}": mixer.take(f"{source}.{kind}") for kind in kinds}
    converted |= {f"mixer.oversize_conv.conv_w.{kind}": mixer.take(f"dwconv1.conv_w.{kind}") for kind in kinds}
    for kind in ("weight", "bias"):
        value, gate = mlp.take(f"fc1.{kind}").chunk(2)
        converted[f"mlp.up.{kind}"] = torch.cat([gate, value])
    for name, number in {"mixer": 1, "mlp": 2}.items():
        for kind in ("weight",) if o.norm == "unit" else ("weight", "bias"):
            converted[f"{name}_norm.{kind}"] = weights.take(f"norm{number}.{kind}")
        if o.layer_scale_init_value:
            converted[f"{name}_residual.weight"] = weights.take(f"layer_scale{number}.scale")
        if o.res_scale_init_value:
            converted[f"{name}_residual.stream_weight"] = weights.take(f"res_scale{number}.scale")
    return converted


def infer_block(weights: Weights) -> dict[str, Any]:
    """Sizes, from the shapes of the tensors, and which scales there are."""
    if "token_mixer.pwconv1.weight" not in weights:
        return {}
    dim = weights.peek("token_mixer.pwconv1.weight").shape[1]
    found = {
        "dim": dim, "global_kernel_size": weights.peek("token_mixer.dwconv1.conv_h.weight").shape[2],
        "local_kernel": weights.peek("token_mixer.dwconv2.weight").shape[2],
        "mlp_ratio": len(weights.peek("mlp.fc1.weight")) / dim,
        "norm": "layer" if "norm1.bias" in weights else "unit", "bias": "token_mixer.pwconv2.bias" in weights,
    }  # fmt: skip
    scales = {"layer_scale_init_value": "layer_scale1.scale", "res_scale_init_value": "res_scale1.scale"}
    return found | {name: 1.0 for name, source in scales.items() if source in weights}


def _read(hyper: Mapping[str, Any]) -> Any:
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, ("map", "drop"))
    if int(o.mlp_ratio * o.dim) % 2:
        got, remedy = f"mlp_ratio={o.mlp_ratio} for dim={o.dim}", "the network's halves must be of one width"
        raise argument_error(f"from_original({BLOCK!r})", got, "an even number of hidden channels", remedy)
    return o


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = options(MODEL, hyper, DEFAULTS, ("head_dropout",))
    backbone = parcnetv2(
        o.dims,
        o.depths,
        global_sizes=_each(o.global_kernel_sizes, len(o.depths)),
        stream_scales=[scale or None for scale in _each(o.res_scale_init_values, len(o.depths))],
        layer_scale=[scale or None for scale in _each(o.layer_scale_init_values, len(o.depths))],
        mlp_ratio=float(o.mlp_ratio),
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = options(MODEL, hyper, DEFAULTS, ("head_dropout",))
    names = {"backbone.stem.proj": "downsample_layers.0.conv", "backbone.pooled_norm": "norm", "head": "head"}
    converted = take_pairs(weights, names)
    converted |= take_pairs(weights, {"backbone.stem.norm": "downsample_layers.0.post_norm"}, ("weight",))
    for stage, depth in enumerate(o.depths):
        if stage:
            source, target = f"downsample_layers.{stage}", f"backbone.downsamplings.{stage - 1}"
            converted |= take_pairs(weights, {f"{target}.conv": f"{source}.conv"})
            converted |= take_pairs(weights, {f"{target}.norm": f"{source}.pre_norm"}, ("weight",))
        for index in range(depth):
            scales = {"layer_scale_init_value": _each(o.layer_scale_init_values, len(o.depths))[stage]}
            scales |= {"res_scale_init_value": _each(o.res_scale_init_values, len(o.depths))[stage]}
            block = {"dim": o.dims[stage], "mlp_ratio": o.mlp_ratio, **scales}
            found = convert_block(weights.part(f"stages.{stage}.{index}."), block)
            converted |= named(f"backbone.stages.{stage}.{index}", found)
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    stages = [weights.part(f"stages.{stage}.") for stage in range(count_parts(weights, "stages.{}.0.norm1.weight"))]
    if not stages or "stages.0.0.token_mixer.dwconv1.conv_h.weight" not in weights:
        return {}
    blocks = [infer_block(stage.part("0.")) for stage in stages]
    return {
        "depths": [count_parts(stage, "{}.norm1.weight") for stage in stages],
        "dims": [block["dim"] for block in blocks], "mlp_ratio": blocks[0]["mlp_ratio"],
        "global_kernel_sizes": [block["global_kernel_size"] for block in blocks],
        "layer_scale_init_values": [block.get("layer_scale_init_value") for block in blocks],
        "res_scale_init_values": [block.get("res_scale_init_value") for block in blocks],
        "in_chans": weights.peek("downsample_layers.0.conv.weight").shape[1],
        "num_classes": len(weights.peek("head.weight")),
    }  # fmt: skip


def _each(value: Any, stages: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * stages


add_importer(CONV, build=build_conv, convert=convert_conv, infer=infer_conv)
add_importer(BLOCK, build=build_block, convert=convert_block, infer=infer_block)
add_importer(MODEL, build=build, convert=convert, infer=infer)
