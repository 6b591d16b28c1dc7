"""microsoft/TokenMixers: AFFNet's block and classifiers.

Read in ``Adaptive Frequency Filters/affnet/modules/aff_block.py`` (AFFBlock), ``modules/mobilenetv2.py`` and
``models/classification/affnet.py`` (AffNet) at 99dbe38c. Options that the original takes from its global settings keep
their names without a prefix: ``activation`` (its default is relu), ``attn_norm_layer``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.aff import CONV_STAGES, AFFBackbone, AFFBlock
from ...vision.backbones.backbone import ImageClassifier
from ..importer import Weights, add_importer, options
from .parts import PAIR, count_parts, take_pairs

BLOCK, MODEL = "microsoft/TokenMixers:AFFBlock", "microsoft/TokenMixers:AffNet"
NORM = "layer_norm_2d"
NORMS: Mapping[str, str] = {
    **dict.fromkeys((NORM, "layer_norm_nchw"), "image"),
    **dict.fromkeys(("batch_norm", "batch_norm_2d", "sync_batch_norm"), "batch"),
}
"""``attn_norm_layer``."""
ACTIVATIONS = {"relu": "relu", "swish": "silu", "gelu": "gelu"}
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "in_channels": ..., "transformer_dim": ..., "ffn_dim": ..., "n_transformer_blocks": 2, "head_dim": 32,
    "attn_norm_layer": NORM, "no_fusion": False, "activation": "relu",
}  # fmt: skip
IGNORED = ("map", "attn_dropout", "dropout", "ffn_dropout", "patch_h", "patch_w", "conv_ksize", "dilation")
"""What the block takes and does not read."""
DEFAULTS: Mapping[str, Any] = {
    "dims": (32, 64, 128, 256, 320), "depths": (1, 3, 2, 4, 3), "expand": 4.0, "mlp_ratio": 2.0,
    "fuse": (True, True, True), "stem_dim": 16, "head_factor": 4, "in_channels": 3, "n_classes": 1000,
    "activation": "relu", "attn_norm_layer": NORM,
}  # fmt: skip
"""Sizes that the original holds by name (``mode``); they are found in the shapes of the tensors."""
LAYERS = {"up": "exp_1x1", "conv": "conv_3x3", "down": "red_1x1"}
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def build_block(**hyper: Any) -> AFFBlock:
    """The block, on feature maps with channels last."""
    o = _read_block(hyper)
    ratio, activation = o.ffn_dim / o.transformer_dim, ACTIVATIONS[o.activation]
    return AFFBlock(
        o.in_channels,
        depth=o.n_transformer_blocks,
        mlp_ratio=ratio,
        fuse=not o.no_fusion,
        activation=activation,
        norm=NORMS[o.attn_norm_layer],
    )


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block."""
    o = _read_block(hyper)
    return _block(weights, o.n_transformer_blocks, NORMS[o.attn_norm_layer])


def _block(weights: Weights, depth: int, norm: str) -> dict[str, Tensor]:
    kinds = NORM_TENSORS if norm == "batch" else PAIR
    converted = take_pairs(weights, {"norm": f"global_rep.{depth}"}, kinds) | _conv(weights, "proj", "conv_proj")
    if "fusion.block.conv.weight" in weights:
        converted |= _conv(weights, "fusion", "fusion")
    for index in range(depth):
        layer = weights.part(f"global_rep.{index}.")
        found = take_pairs(layer, {"mlp_norm": "norm1", "mixer_norm": "norm2"}, kinds)
        found |= _residual(layer.part("mlp."), "mlp")
        filters = {"up_weight": "w1", "up_bias": "b1", "down_weight": "w2", "down_bias": "b2"}
        found |= {f"mixer.{name}": layer.take(f"filter.{source}") for name, source in filters.items()}
        converted |= {f"layers.{index}.{name}": tensor for name, tensor in found.items()}
    return converted


def _residual(weights: Weights, target: str) -> dict[str, Tensor]:
    """An inverted residual; with a factor of one it has no first projection."""
    converted: dict[str, Tensor] = {}
    for name, source in LAYERS.items():
        if f"block.{source}.block.conv.weight" in weights:
            converted |= _conv(weights, f"{target}.{name}", f"block.{source}")
    return converted


def _conv(weights: Weights, target: str, source: str) -> dict[str, Tensor]:
    found = {f"{target}.conv.weight": weights.take(f"{source}.block.conv.weight")}
    return found | {f"{target}.norm.{kind}": weights.take(f"{source}.block.norm.{kind}") for kind in NORM_TENSORS}


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the sizes of the original."""
    o = _read(hyper)
    backbone = AFFBackbone(
        dims=o.dims, depths=o.depths, expand=float(o.expand), mlp_ratio=float(o.mlp_ratio), fuse=o.fuse,
        stem_dim=o.stem_dim, activation=ACTIVATIONS[o.activation], head_factor=o.head_factor,
        in_channels=o.in_channels, norm=NORMS[o.attn_norm_layer],
    )  # fmt: skip
    return ImageClassifier(backbone, o.n_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read(hyper)
    converted = _conv(weights, "backbone.stem", "conv_1") | _conv(weights, "backbone.projection", "conv_1x1_exp")
    converted |= take_pairs(weights, {"head": "classifier.fc"})
    for stage, depth in enumerate(o.depths):
        source, target = weights.part(f"layer_{stage + 1}."), f"backbone.stages.{stage}"
        for index in range(depth if stage < CONV_STAGES else 1):
            converted |= _residual(source.part(f"{index}."), f"{target}.{index}")
        if stage >= CONV_STAGES:
            block = _block(source.part("1."), depth, NORMS[o.attn_norm_layer])
            converted |= {f"{target}.1.{name}": tensor for name, tensor in block.items()}
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    if "conv_1.block.conv.weight" not in weights:
        return {}
    stem, stages = weights.peek("conv_1.block.conv.weight"), list[Weights]()
    while f"layer_{len(stages) + 1}.0.block.red_1x1.block.conv.weight" in weights:
        stages.append(weights.part(f"layer_{len(stages) + 1}."))
    dims = [len(stage.peek("0.block.red_1x1.block.conv.weight")) for stage in stages]
    depths = [
        count_parts(stage, "{}.block.red_1x1.block.conv.weight" if index < CONV_STAGES else "1.global_rep.{}.filter.w1")
        for index, stage in enumerate(stages)
    ]
    second, filters = stages[1].peek("0.block.exp_1x1.block.conv.weight"), stages[CONV_STAGES:]
    inner = [stage.peek("1.global_rep.0.mlp.block.red_1x1.block.conv.weight").shape[1] for stage in filters]
    return {
        "dims": dims, "depths": depths, "stem_dim": len(stem), "in_channels": stem.shape[1],
        "expand": len(second) / second.shape[1], "mlp_ratio": inner[0] / dims[CONV_STAGES] if inner else 2.0,
        "fuse": ["1.fusion.block.conv.weight" in stage for stage in filters],
        "n_classes": len(weights.peek("classifier.fc.weight")),
    }  # fmt: skip


def _read_block(hyper: Mapping[str, Any]) -> Any:
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, IGNORED)
    _check(BLOCK, o)
    if o.transformer_dim != o.in_channels or o.transformer_dim % o.head_dim:
        got = f"in_channels={o.in_channels}, transformer_dim={o.transformer_dim}, head_dim={o.head_dim}"
        remedy = "the original fails with others"
        raise argument_error(f"from_original({BLOCK!r})", got, "one width, a multiple of head_dim", remedy)
    return o


def _read(hyper: Mapping[str, Any]) -> Any:
    o = options(MODEL, hyper, DEFAULTS, ("mode",))
    _check(MODEL, o)
    return o


def _check(original: str, o: Any) -> None:
    if o.attn_norm_layer not in NORMS or o.activation not in ACTIVATIONS:
        got = f"attn_norm_layer={o.attn_norm_layer!r}, activation={o.activation!r}"
        wanted = f"one of {', '.join(NORMS)}, and one of {', '.join(ACTIVATIONS)}"
        raise argument_error(f"from_original({original!r})", got, wanted, "these alone were checked")


add_importer(BLOCK, build=build_block, convert=convert_block)
add_importer(MODEL, build=build, convert=convert, infer=infer)
