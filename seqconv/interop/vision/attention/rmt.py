"""qhfan/RMT: the attention with Manhattan decay, and whole classifiers.

Read in ``classfication_release/RMT.py`` at 32ea2141 (VisionRetentionChunk, VisionRetentionAll, RetBlock, VisRetNet),
and in ``classification_token_label_release/RMT.py`` there, whose classifier reads single cells too (``token_label``).
The tables of angles and decays (``Relpos``) are computed here. Sizes come from the shapes of the tensors, the heads and
decays from the hyper-parameters; those of the published variants are in :mod:`seqconv.zoo.rmt`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....vision.backbones.backbone import ImageClassifier, TokenLabelClassifier
from ....vision.backbones.block import Block2d
from ....vision.backbones.hierarchical import HierarchicalBackbone
from ....vision.mixers.attention.manhattan import ManhattanRetention2d
from ...importer import Weights, add_importer, options
from ..parts import require_names

BLOCK = "qhfan/RMT:RetBlock"
CHUNK, WHOLE = "qhfan/RMT:VisionRetentionChunk", "qhfan/RMT:VisionRetentionAll"
MODEL = "qhfan/RMT:VisRetNet"
MIXER_DEFAULTS: Mapping[str, Any] = {"embed_dim": ..., "num_heads": ..., "initial_value": 2, "heads_range": 4}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
DEFAULTS: Mapping[str, Any] = {
    "in_chans": 3,
    "num_classes": 1000,
    "embed_dims": (96, 192, 384, 768),
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "init_values": (1, 1, 1, 1),
    "heads_ranges": (3, 3, 3, 3),
    "mlp_ratios": (3, 3, 3, 3),
    "drop_path_rate": 0.1,
    "chunkwise_recurrents": (True, True, False, False),
    "projection": 1024,
    "layerscales": (False, False, False, False),
    "layer_init_values": 1e-6,
    "token_label": False,
}
IGNORED = ("image", "norm_layer", "patch_norm", "use_checkpoints")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
BLOCK_OPTIONS: Mapping[str, Any] = {"mlp": "conv_after", "position_conv": True, "norm_eps": 1e-6}
BLOCK_DEFAULTS: Mapping[str, Any] = {
    **MIXER_DEFAULTS, "retention": ..., "ffn_dim": ..., "layerscale": False, "layer_init_values": 1e-5,
}  # fmt: skip
"""Those of the block, and of its table of decays."""


def _mixer_builder(original: str) -> Any:
    def build(**hyper: Any) -> ManhattanRetention2d:
        """The mixer with the options of the original."""
        o = options(original, hyper, MIXER_DEFAULTS, ("value_factor",))
        return ManhattanRetention2d(
            o.embed_dim,
            num_heads=o.num_heads,
            decomposed=original == CHUNK,
            decay_shift=float(o.initial_value),
            decay_range=float(o.heads_range),
        )

    return build


def convert_mixer(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    names = {name: name for name in PROJECTIONS} | {"conv2d": "lepe.conv"}
    return _pairs(weights, names)


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = options(MODEL, hyper, DEFAULTS, IGNORED)
    require_names(MODEL, hyper, norm_layer=("layernorm",))
    count = len(o.depths)
    per_stage = zip(o.num_heads, o.chunkwise_recurrents, o.init_values, o.heads_ranges, strict=False)
    stage_options = [
        {"num_heads": heads, "decomposed": chunk, "decay_shift": float(shift), "decay_range": float(span)}
        for heads, chunk, shift, span in per_stage
    ][:count]
    backbone = HierarchicalBackbone(
        "manhattan",
        dims=o.embed_dims,
        depths=o.depths,
        stage_options=stage_options,
        in_channels=o.in_chans,
        stem="batch_norm",
        downsampling="batch_norm",
        mlp_ratio=[float(ratio) for ratio in o.mlp_ratios[:count]],
        layer_scale=[float(o.layer_init_values) if scaled else None for scaled in o.layerscales[:count]],
        block_options=BLOCK_OPTIONS,
        projection=o.projection,
        drop_path=float(o.drop_path_rate),
    )
    return (TokenLabelClassifier if o.token_label else ImageClassifier)(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = options(MODEL, hyper, DEFAULTS, IGNORED)
    converted = _pairs(weights, {"head": "head", "backbone.projection.proj": "proj"})
    converted |= _pairs(weights, {"cell_head": "aux_head"} if o.token_label else {})
    converted |= _norm(weights, "backbone.projection.norm", "norm")
    for layer in (0, 3, 6, 9):
        converted |= _pairs(weights, {f"backbone.stem.layers.{layer}": f"patch_embed.proj.{layer}"})
        converted |= _norm(weights, f"backbone.stem.layers.{layer + 1}", f"patch_embed.proj.{layer + 1}")
    for stage, depth in enumerate(o.depths):
        weights.ignore(f"layers.{stage}.Relpos.angle", f"layers.{stage}.Relpos.decay")
        if stage:
            target, source = f"backbone.downsamplings.{stage - 1}", f"layers.{stage - 1}.downsample"
            converted |= _pairs(weights, {f"{target}.conv": f"{source}.reduction"})
            converted |= _norm(weights, f"{target}.norm", f"{source}.norm")
        for index in range(depth):
            converted |= convert_block(
                weights.part(f"layers.{stage}.blocks.{index}."),
                f"backbone.stages.{stage}.{index}",
                o.layerscales[stage],
            )
    return converted


def convert_block(weights: Weights, target: str, scaled: bool) -> dict[str, Tensor]:
    """The state dict of a block, its names after ``target``."""
    names = {
        "position_conv": "pos.conv", "mixer_norm": "retention_layer_norm", "mlp_norm": "final_layer_norm",
        "mlp.up": "ffn.fc1", "mlp.conv2d": "ffn.dwconv.conv", "mlp.down": "ffn.fc2",
    }  # fmt: skip
    converted = _pairs(weights, names)
    converted |= {f"mixer.{name}": t for name, t in convert_mixer(weights.part("retention."), {}).items()}
    if scaled:
        converted["mixer_residual.weight"] = weights.take("gamma_1").flatten()
        converted["mlp_residual.weight"] = weights.take("gamma_2").flatten()
    return {f"{target}.{name}": tensor for name, tensor in converted.items()}


def build_ret_block(**hyper: Any) -> Block2d:
    """A block with the options of the original."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, ("drop_path",))
    sizes = {"embed_dim": o.embed_dim, "num_heads": o.num_heads}
    decays = {"initial_value": o.initial_value, "heads_range": o.heads_range}
    mixer = _mixer_builder(CHUNK if o.retention == "chunk" else WHOLE)(**sizes, **decays)
    scale = float(o.layer_init_values) if o.layerscale else None
    return Block2d(mixer, mlp_ratio=o.ffn_dim / o.embed_dim, layer_scale=scale, **BLOCK_OPTIONS)


def convert_ret_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a block by itself."""
    converted = convert_block(weights, "block", options(BLOCK, hyper, BLOCK_DEFAULTS, ("drop_path",)).layerscale)
    return {name.removeprefix("block."): tensor for name, tensor in converted.items()}


def infer(weights: Weights) -> dict[str, Any]:
    """Sizes, from the shapes of the tensors; heads and decays from the tables that a checkpoint holds."""
    depths: list[int] = []
    while f"layers.{len(depths)}.blocks.0.pos.conv.weight" in weights:
        depth = 1
        while f"layers.{len(depths)}.blocks.{depth}.pos.conv.weight" in weights:
            depth += 1
        depths.append(depth)
    if not depths:
        return {}
    first = [weights.part(f"layers.{stage}.blocks.0.") for stage in range(len(depths))]
    dims = [len(block.peek("pos.conv.weight")) for block in first]
    projection = weights.peek("proj.weight")
    return {
        "depths": depths, "embed_dims": dims, "in_chans": weights.peek("patch_embed.proj.0.weight").shape[1],
        "mlp_ratios": [len(b.peek("ffn.fc1.weight")) / dim for b, dim in zip(first, dims, strict=True)],
        "num_heads": [len(weights.peek(f"layers.{stage}.Relpos.decay")) for stage in range(len(depths))],
        "layerscales": ["gamma_1" in block for block in first], "projection": len(projection),
        "num_classes": len(weights.peek("head.weight")), "token_label": "aux_head.weight" in weights,
    }  # fmt: skip


def _pairs(weights: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}": weights.take(f"{source}.{kind}")
        for name, source in names.items()
        for kind in ("weight", "bias")
    }


def _norm(weights: Weights, name: str, source: str) -> dict[str, Tensor]:
    return {f"{name}.{kind}": weights.take(f"{source}.{kind}") for kind in NORM}


add_importer(BLOCK, build=build_ret_block, convert=convert_ret_block)
for _original in (CHUNK, WHOLE):
    add_importer(_original, build=_mixer_builder(_original), convert=convert_mixer)
add_importer(MODEL, build=build, convert=convert, infer=infer)
