"""badripatro/SpectFormers: classifiers, plain and in stages.

Read in ``vanilla_architecture/spectformer.py`` (SpectFormer, Block, Block_attention) at b6cf487a: four blocks of
filters in the spectrum, then attention with six heads; options and the names of all other tensors are GFNet's.
``num_heads`` is another number of heads, for widths that six do not divide. In stages: SpectFormer in
``hierarchical_architecture/spectformer.py``, in evaluation; its filters are of the sizes of 224 by 224 pixels.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier, TokenLabelClassifier
from ...zoo.spectformer import HIERARCHICAL, NUM_HEADS, PLAIN, SPECTRAL_STAGES, spectformer, spectformer_h
from ..importer import Weights, add_importer, options
from .parts import count_parts, named, require_names, take_pairs
from .spectral import convert, infer, read

STAGED_DEFAULTS: Mapping[str, Any] = {
    "in_chans": 3, "num_classes": 1000, "stem_hidden_dim": 32, "embed_dims": (64, 128, 320, 448),
    "num_heads": (2, 4, 10, 14), "mlp_ratios": (8, 8, 4, 4), "drop_path_rate": 0.0, "depths": (3, 4, 6, 3),
    "num_stages": 4, "token_label": True, "img_size": 224,
}  # fmt: skip
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
STEM_CONVS = 3
HEAD_WIDTH = 32
"""Channels of a head in all published models in stages."""


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    heads = hyper.get("num_heads", NUM_HEADS)
    o = read(PLAIN, {name: value for name, value in hyper.items() if name != "num_heads"})
    if o.embed_dim % heads:
        got, wanted = f"embed_dim={o.embed_dim}", f"a width that {heads} heads divide"
        raise argument_error(f"from_original({PLAIN!r})", got, wanted, "pass num_heads")
    backbone = spectformer(
        o.embed_dim,
        o.depth,
        num_heads=heads,
        image_size=o.img_size,
        patch_size=o.patch_size,
        in_channels=o.in_chans,
        mlp_ratio=float(o.mlp_ratio),
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert_plain(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    return convert(weights, {name: value for name, value in hyper.items() if name != "num_heads"})


def build_staged(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original; ``img_size`` is the size that its filters are of."""
    o = _read_staged(hyper)
    backbone = spectformer_h(
        o.embed_dims,
        o.depths,
        o.num_heads,
        o.stem_hidden_dim,
        mlp_ratios=[float(ratio) for ratio in o.mlp_ratios],
        image_size=o.img_size,
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return (TokenLabelClassifier if o.token_label else ImageClassifier)(backbone, o.num_classes)


def convert_staged(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read_staged(hyper)
    names = {"backbone.stem.proj": "patch_embed1.proj", "backbone.stem.norm": "patch_embed1.norm"}
    names |= {"backbone.norm": f"norm{len(o.depths)}"} | ({"head": "head"} if o.num_classes else {})
    names |= {"cell_head": "aux_head"} if o.num_classes and o.token_label else {}
    converted = take_pairs(weights, names) | _stem(weights.part("patch_embed1.conv."))
    for stage, depth in enumerate(o.depths):
        if stage:
            target, source = f"backbone.downsamplings.{stage - 1}", f"patch_embed{stage + 1}"
            modules = {f"{target}.input_norm": f"norm{stage}", f"{target}.conv": f"{source}.proj"}
            converted |= take_pairs(weights, modules | {f"{target}.norm": f"{source}.norm"})
        for index in range(depth):
            block = _block(weights.part(f"block{stage + 1}.{index}."), stage < SPECTRAL_STAGES)
            converted |= named(f"backbone.stages.{stage}.{index}", block)
    pooling = {"mixer_norm": "norm1", "mlp_norm": "norm2", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
    pooling |= {"q_proj": "attn.q", "kv_proj": "attn.kv", "out_proj": "attn.proj"}
    return converted | named("backbone.class_attention", take_pairs(weights.part("post_network.0."), pooling))


def _stem(weights: Weights) -> dict[str, Tensor]:
    converted = dict[str, Tensor]()
    for index in range(0, 3 * STEM_CONVS, 3):  # a convolution, its norm and an activation
        target = f"backbone.stem.layers.{index}"
        converted[f"{target}.weight"] = weights.take(f"{index}.weight")
        norm = {f"backbone.stem.layers.{index + 1}": f"{index + 1}"}
        converted |= take_pairs(weights, norm) | take_pairs(weights, norm, STATISTICS)
    return converted


def _block(weights: Weights, spectral: bool) -> dict[str, Tensor]:
    modules = {"mixer_norm": "norm1", "mlp_norm": "norm2", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
    modules |= {"mlp.conv2d": "mlp.dwconv.dwconv"}
    if spectral:
        return take_pairs(weights, modules) | {"mixer.weight": weights.take("attn.complex_weight")}
    attention = {f"mixer.{name}": f"attn.{source}" for name, source in (("q_proj", "q"), ("kv_proj", "kv"))}
    return take_pairs(weights, modules | attention | {"mixer.out_proj": "attn.proj"})


def infer_staged(weights: Weights) -> dict[str, Any]:
    """All sizes but the heads, 32 wide as published, from the shapes of the tensors."""
    if "patch_embed1.conv.0.weight" not in weights or "block1.0.attn.complex_weight" not in weights:
        return {}
    count = 0
    while f"block{count + 1}.0.norm1.weight" in weights:
        count += 1
    stages = [weights.part(f"block{index}.") for index in range(1, count + 1)]
    dims, stem = [len(stage.peek("0.norm1.weight")) for stage in stages], weights.peek("patch_embed1.conv.0.weight")
    hidden = [len(stage.peek("0.mlp.fc1.weight")) for stage in stages]
    return {
        "embed_dims": dims, "depths": [count_parts(stage, "{}.norm1.weight") for stage in stages], "num_stages": count,
        "stem_hidden_dim": len(stem), "in_chans": stem.shape[1],
        "num_heads": [max(dim // HEAD_WIDTH, 1) for dim in dims],
        "mlp_ratios": [inner / dim for inner, dim in zip(hidden, dims, strict=True)],
        "img_size": 4 * stages[0].peek("0.attn.complex_weight").shape[0], "token_label": "aux_head.weight" in weights,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def _read_staged(hyper: Mapping[str, Any]) -> Any:
    require_names(HIERARCHICAL, hyper, norm_layer=("layernorm(eps=1e-06)",))
    return options(HIERARCHICAL, hyper, STAGED_DEFAULTS, ("norm_layer", "sr_ratios"))


add_importer(PLAIN, build=build, convert=convert_plain, infer=infer)
add_importer(HIERARCHICAL, build=build_staged, convert=convert_staged, infer=infer_staged)
