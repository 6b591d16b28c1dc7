"""raoyongming/HorNet: gⁿConv and the classifiers.

Read in ``hornet.py`` at 5e552736. Its ``gflayer="GlobalLocalFilter"`` with h and w may also be given as
``global_filter=(h, w)``, and ``scale`` is another name of its ``s``. Of the classifiers (HorNet, Block, at ac9e2105)
the mixers of each stage are found from the shapes of the tensors; their factor ``s`` is 1/3 in all published ones.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...layers.initialisation import LINEAR_INIT_STD
from ...vision.backbones.backbone import ImageClassifier
from ...vision.mixers.gnconv import GnConv2d
from ...zoo.hornet import SCALE, hornet
from ..importer import Weights, add_importer, options
from .parts import count_parts, named, require_checked, take_pairs

ORIGINAL, MODEL = "raoyongming/HorNet:gnconv", "raoyongming/HorNet:HorNet"
GLOBAL_FILTER = "GlobalLocalFilter"
DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "order": 5, "gflayer": None, "h": 14, "w": 8, "s": 1.0, "scale": None, "global_filter": None,
}  # fmt: skip
MODEL_DEFAULTS: Mapping[str, Any] = {
    "in_chans": 3, "num_classes": 1000, "depths": (3, 3, 9, 3), "base_dim": 96, "drop_path_rate": 0.0,
    "layer_scale_init_value": 1e-6, "orders": (2, 3, 4, 5), "s": SCALE, "global_filters": (None, None, None, None),
}  # fmt: skip
"""Those of the original; its mixers by their order and, in the spectrum, frequencies of rows and columns."""
IGNORED = ("H", "W", "seed")
"""Sizes of a test's input."""


def build(**hyper: Any) -> GnConv2d:
    """The mixer with the options of the original."""
    o = _options(hyper)
    scale = o.s if o.scale is None else o.scale
    return GnConv2d(o.dim, order=o.order, scale=float(scale), global_filter=o.global_filter)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer; 1 by 1 convolutions become linear layers."""
    o = _options(hyper)
    gates = {f"gate_projs.{i}": f"pws.{i}" for i in range(o.order - 1)}
    if o.global_filter is None:
        converted = {f"conv2d.{kind}": weights.take(f"dwconv.{kind}") for kind in ("weight", "bias")}
    else:
        names = {"local.weight": "dw.weight", "weight": "complex_weight"}
        names |= {
            f"{norm}.{kind}": f"{norm}.{kind}" for norm in ("pre_norm", "post_norm") for kind in ("weight", "bias")
        }
        converted = {f"global_filter.{name}": weights.take(f"dwconv.{original}") for name, original in names.items()}
    for name, original in {"in_proj": "proj_in", "out_proj": "proj_out", **gates}.items():
        converted[f"{name}.weight"] = weights.take(f"{original}.weight").flatten(1)
        converted[f"{name}.bias"] = weights.take(f"{original}.bias")
    return converted


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.gflayer not in (None, GLOBAL_FILTER):
        got, wanted = f"gflayer={o.gflayer!r}", f"None or {GLOBAL_FILTER!r}"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "these alone were checked")
    if o.gflayer is not None and o.global_filter is None:
        o.global_filter = (o.h, o.w)
    return o


def build_model(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read_model(hyper)
    mixers = [
        {"order": order, "scale": float(o.s), "global_filter": size}
        for order, size in zip(o.orders, o.global_filters, strict=True)
    ]
    scale, drop = o.layer_scale_init_value or None, float(o.drop_path_rate)
    backbone = hornet(
        o.base_dim,
        mixers,
        depths=o.depths,
        layer_scale=scale,
        drop_path=drop,
        in_channels=o.in_chans,
        head_init_std=LINEAR_INIT_STD * o.head_init_scale,
    )
    return ImageClassifier(backbone, o.num_classes)


def convert_model(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read_model(hyper)
    names = {"backbone.stem.proj": "downsample_layers.0.0", "backbone.stem.norm": "downsample_layers.0.1"}
    for stage in range(1, len(o.depths)):
        target, source = f"backbone.downsamplings.{stage - 1}", f"downsample_layers.{stage}"
        names |= {f"{target}.norm": f"{source}.0", f"{target}.conv": f"{source}.1"}
    converted = take_pairs(weights, names | {"backbone.pooled_norm": "norm", "head": "head"})
    for stage, depth in enumerate(o.depths):
        width = o.base_dim * 2**stage
        mixer = {"dim": width, "order": o.orders[stage], "global_filter": o.global_filters[stage]}
        for index in range(depth):
            block = weights.part(f"stages.{stage}.{index}.")
            modules = {"mixer_norm": "norm1", "mlp_norm": "norm2", "mlp.up": "pwconv1", "mlp.down": "pwconv2"}
            found = take_pairs(block, modules) | named("mixer", convert(block.part("gnconv."), mixer))
            if o.layer_scale_init_value:
                found |= {f"{n}_residual.weight": block.take(f"gamma{i}") for i, n in enumerate(("mixer", "mlp"), 1)}
            converted |= named(f"backbone.stages.{stage}.{index}", found)
    return converted


def infer_model(weights: Weights) -> dict[str, Any]:
    """All sizes but the factor of the convolutions, from the shapes of the tensors."""
    stages = [weights.part(f"stages.{stage}.") for stage in range(count_parts(weights, "stages.{}.0.norm1.weight"))]
    if not stages or "stages.0.0.gnconv.proj_in.weight" not in weights:
        return {}
    name = "0.gnconv.dwconv.complex_weight"
    stem = weights.peek("downsample_layers.0.0.weight")
    return {
        "depths": [count_parts(stage, "{}.norm1.weight") for stage in stages], "base_dim": len(stem),
        "in_chans": stem.shape[1], "num_classes": len(weights.peek("head.weight")),
        "orders": [1 + count_parts(stage, "0.gnconv.pws.{}.weight") for stage in stages],
        "global_filters": [tuple(stage.peek(name).shape[1:3]) if name in stage else None for stage in stages],
        "layer_scale_init_value": 1e-6 if "0.gamma1" in stages[0] else 0.0,
    }  # fmt: skip


def _read_model(hyper: Mapping[str, Any]) -> Any:
    o = options(MODEL, hyper, {**MODEL_DEFAULTS, "head_init_scale": 1.0, "uniform_init": False})
    require_checked(MODEL, o, {"uniform_init": False})
    return o


add_importer(ORIGINAL, build=build, convert=convert)
add_importer(MODEL, build=build_model, convert=convert_model, infer=infer_model)
