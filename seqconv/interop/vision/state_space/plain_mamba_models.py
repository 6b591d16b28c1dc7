"""ChenhongyiYang/PlainMamba: whole classifiers.

Read in ``mmcls/plain_mamba_dev/models`` (plain_mamba.py, plain_mamba_layer.py, modules/patch_embed.py) at 0975a1d0. The
names of its checkpoints are those of mmcls: ``backbone.*`` and ``head.fc.*``. All sizes come from the shapes of the
tensors, but for the height and the width of a grid of positions that is not square.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.block import Block2d
from ....vision.backbones.plain_2d import DepthwiseLayer, PlainBackbone2d
from ...importer import Weights, add_importer, options
from ..parts import count_parts, require_checked
from .plain_mamba import IGNORED as MIXER_IGNORED
from .plain_mamba import build as build_mixer
from .plain_mamba import convert as convert_mixer

ORIGINAL = "ChenhongyiYang/PlainMamba:PlainMamba"
NORM_CFG: Mapping[str, Any] = {"type": "LN", "eps": 1e-6}
MIXER = ("d_state", "expand", "conv_size", "dt_rank", "conv_bias", "bias", "init_layer_scale")
"""Options of the mixers, of ``mamba_cfg`` or by themselves."""
DEFAULTS: Mapping[str, Any] = {
    "img_size": 224,
    "in_channels": 3,
    "patch_size": 16,
    "embed_dims": 192,
    "num_layers": 20,
    "num_convs_patch_embed": 1,
    "stem_channels": 64,
    "layers_with_dwconv": (),
    "drop_path_rate": 0.0,
    "d_state": 16,
    "expand": 2,
    "conv_size": 7,
    "dt_rank": "auto",
    "conv_bias": True,
    "bias": True,
    "init_layer_scale": None,
    "use_rms_norm": False,
    "layer_cfgs": {},
    "with_pos_embed": True,
    "final_norm": True,
    "num_classes": 1000,
    "norm_cfg": NORM_CFG,
}
IGNORED = (
    "image", "arch", "drop_rate", "interpolate_mode", "init_cfg", "test_cfg", "convert_syncbn", "freeze_patch_embed",
)  # fmt: skip
CHECKED: Mapping[str, Any] = {"with_pos_embed": True, "final_norm": True, "interpolate_mode": "bicubic"}
LAYER = "ChenhongyiYang/PlainMamba:PlainMambaLayer"
LAYER_DEFAULTS: Mapping[str, Any] = {
    "embed_dims": ..., "with_dwconv": False, "mamba_cfg": ..., "use_rms_norm": False,
}  # fmt: skip
LAYER_IGNORED = ("drop_path_rate",)
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _options(hyper)
    backbone = PlainBackbone2d(
        "plain_mamba",
        d_model=o.embed_dims,
        depth=o.num_layers,
        mixer_options={
            "selection": "raster", "d_state": o.d_state, "expand": o.expand, "d_conv": o.conv_size,
            "dt_rank": o.dt_rank, "conv_bias": o.conv_bias, "bias": o.bias,
        },
        block_options={"norm": "rms" if o.use_rms_norm else "layer"},
        image_size=o.img_size,
        patch_size=o.patch_size,
        stem="conv7",
        stem_options={"num_convs": o.num_convs_patch_embed, "channels": o.stem_channels},
        in_channels=o.in_channels,
        conv_layers=o.layers_with_dwconv,
        final_norm_eps=float(o.norm_cfg.get("eps", 1e-5)),
        head_init_std=0.01,
        drop_path=float(o.drop_path_rate),
    )  # fmt: skip
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = _options(hyper)
    positions, sizes = weights.take("backbone.pos_embed")[0], o.img_size
    rows = (sizes if isinstance(sizes, int) else sizes[0]) // o.patch_size
    converted = {"backbone.position_embedding": positions.unflatten(0, (rows, -1))}
    patch = weights.part("backbone.patch_embed.")
    layers = ["stem.0", "stem.1", "", *(f"convs.{i}" for i in range(3 * o.num_convs_patch_embed))]
    for place, source in enumerate(layers):
        names = {0: ("weight",), 1: NORM, 2: ()}[place % 3]
        converted |= {f"backbone.stem.layers.{place}.{name}": patch.take(f"{source}.{name}") for name in names}
    moved = {
        "backbone.stem.proj": "backbone.patch_embed.projection",
        "backbone.norm": "backbone.ln1",
        "head": "head.fc",
    }
    for index in range(o.num_layers):
        block, source = f"backbone.blocks.{index}", f"backbone.layers.{index}"
        kinds = ("weight",) if o.use_rms_norm else ("weight", "bias")
        converted |= {f"{block}.mixer_norm.{kind}": weights.take(f"{source}.norm.{kind}") for kind in kinds}
        mixer = convert_mixer(weights.part(f"{source}.mamba."), _mixer(o))
        converted |= {f"{block}.mixer.{name}": tensor for name, tensor in mixer.items()}
        if index in o.layers_with_dwconv:
            target = f"backbone.convs.{index}"
            converted[f"{target}.conv.weight"] = weights.take(f"{source}.dw.0.weight")
            converted |= {f"{target}.norm.{name}": weights.take(f"{source}.dw.1.{name}") for name in NORM}
    for name, source in moved.items():
        converted |= {f"{name}.{kind}": weights.take(f"{source}.{kind}") for kind in ("weight", "bias")}
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors; the grid of positions is taken to be square."""
    if "backbone.pos_embed" not in weights:
        return {}
    depth, convs = count_parts(weights, "backbone.layers.{}.norm.weight"), 0
    while f"backbone.patch_embed.convs.{3 * convs}.weight" in weights:
        convs += 1
    stem, patch = (weights.peek(f"backbone.patch_embed.{name}.weight") for name in ("stem.0", "projection"))
    mixer = weights.part("backbone.layers.0.mamba.")
    inner, d_state = mixer.peek("A_log").shape
    width, patch_size = len(patch), 2 * patch.shape[-1]
    return {
        "img_size": math.isqrt(weights.peek("backbone.pos_embed").shape[1]) * patch_size, "in_channels": stem.shape[1],
        "patch_size": patch_size, "embed_dims": width, "num_layers": depth, "num_convs_patch_embed": convs,
        "stem_channels": len(stem), "d_state": d_state, "expand": inner / width,
        "conv_size": mixer.peek("conv2d.weight").shape[-1], "dt_rank": mixer.peek("dt_proj.weight").shape[1],
        "conv_bias": "conv2d.bias" in mixer, "bias": "in_proj.bias" in mixer,
        "init_layer_scale": 1.0 if "gamma" in mixer else None,
        "use_rms_norm": "backbone.layers.0.norm.bias" not in weights,
        "num_classes": len(weights.peek("head.fc.weight")),
        "layers_with_dwconv": [i for i in range(depth) if f"backbone.layers.{i}.dw.0.weight" in weights],
    }  # fmt: skip


def _mixer(o: Any) -> dict[str, Any]:
    return {"d_model": o.embed_dims, **{name: getattr(o, name) for name in MIXER}}


def _options(hyper: Mapping[str, Any]) -> Any:
    """Those of the original; what ``layer_cfgs`` says of its layers comes first."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    layers = dict(o.layer_cfgs)
    mixer = {"bias": False, "init_layer_scale": None, **layers.pop("mamba_cfg")} if "mamba_cfg" in layers else {}
    for name, value in {**layers, **mixer}.items():
        if name in ("use_rms_norm", *MIXER):
            setattr(o, name, value)
        elif name not in ("embed_dims", "drop_path_rate", "with_dwconv", "d_model", *MIXER_IGNORED):
            wanted = ("use_rms_norm", *MIXER)
            raise unknown_name(f"from_original({ORIGINAL!r})", "option of layer_cfgs", name, wanted)
    require_checked(ORIGINAL, o, CHECKED)
    if o.norm_cfg.get("type") != "LN":
        got, remedy = f"norm_cfg={o.norm_cfg}", "this norm alone was checked"
        raise argument_error(f"from_original({ORIGINAL!r})", got, f"{NORM_CFG}", remedy)
    return o


def build_layer(**hyper: Any) -> nn.Sequential:
    """A layer with the options of the original, as modules one after the other."""
    o = options(LAYER, hyper, LAYER_DEFAULTS, LAYER_IGNORED)
    mixer, norm = build_mixer(**{**o.mamba_cfg, "d_model": o.embed_dims}), "rms" if o.use_rms_norm else "layer"
    layers: list[nn.Module] = [Block2d(mixer, mlp_ratio=0.0, norm=norm)]
    return nn.Sequential(*layers, *([DepthwiseLayer(o.embed_dims)] if o.with_dwconv else []))


def convert_layer(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a layer."""
    o = options(LAYER, hyper, LAYER_DEFAULTS, LAYER_IGNORED)
    kinds = ("weight",) if o.use_rms_norm else ("weight", "bias")
    converted = {f"0.mixer_norm.{kind}": weights.take(f"norm.{kind}") for kind in kinds}
    mixer = convert_mixer(weights.part("mamba."), {**o.mamba_cfg, "d_model": o.embed_dims})
    converted |= {f"0.mixer.{name}": tensor for name, tensor in mixer.items()}
    if o.with_dwconv:
        converted["1.conv.weight"] = weights.take("dw.0.weight")
        converted |= {f"1.norm.{name}": weights.take(f"dw.1.{name}") for name in NORM}
    return converted


add_importer(LAYER, build=build_layer, convert=convert_layer)
add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
