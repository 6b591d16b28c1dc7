"""facebookresearch/xcit: the block of attention between channels, and whole classifiers.

Read in ``xcit.py`` (XCA, LPI, XCABlock, ConvPatchEmbed, PositionalEncodingFourier, ClassAttentionBlock, XCiT) at
82f5291f. A block by itself has PyTorch's layer norms (``norm_eps=1e-5``), one of the models ``norm_eps=1e-6``. A
published state dict (``checkpoint["model"]``) tells all sizes; that the layers of class attention norm the token
alone (``tokens_norm=False``, the default there) it does not tell: of the published sizes the nano models alone do so.
The stem reads three colours.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.block import Block2d
from ....vision.mixers.attention.cross_covariance import CrossCovariance2d
from ....zoo.xcit import ORIGINAL, SIZES, xcit
from ...importer import Weights, add_importer, options
from ..parts import PAIR, count_parts, named, require_checked, require_names, take_pairs

BLOCK = "facebookresearch/xcit:XCABlock"
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "num_heads": ..., "mlp_ratio": 4.0, "qkv_bias": False, "eta": 1.0, "drop_path": 0.0,
    "norm_eps": 1e-5,
}  # fmt: skip
BLOCK_IGNORED = ("map", "qk_scale", "drop", "attn_drop", "act_layer", "norm_layer", "num_tokens")
DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dim": 768, "depth": 12,
    "num_heads": 12, "mlp_ratio": 4.0, "qkv_bias": True, "drop_path_rate": 0.0, "cls_attn_layers": 2, "use_pos": True,
    "eta": ..., "tokens_norm": False, "qk_scale": None,
}  # fmt: skip
IGNORED = ("drop_rate", "attn_drop_rate", "patch_proj", "norm_layer", "pretrained", "drop_block_rate")
CHECKED: Mapping[str, Any] = {"in_chans": 3, "patch_size": (16, 8), "qk_scale": None}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
MLP = {"mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
NAMES = {
    "mixer_norm": "norm1", "mlp_norm": "norm2", "local_norm": "norm3", "mixer.out_proj": "attn.proj",
    "local.conv1": "local_mp.conv1", "local.conv2": "local_mp.conv2", "local.norm": "local_mp.bn", **MLP,
}  # fmt: skip
SCALES = {"mixer_residual": "gamma1", "mlp_residual": "gamma2", "local_residual": "gamma3"}
CLASS_NAMES = {"mixer_norm": "norm1", "mlp_norm": "norm2", "out_proj": "attn.proj", **MLP}
NANO_WIDTH = SIZES["nano_12"][0]


def build_block(**hyper: Any) -> Block2d:
    """The block with the options of the original, on feature maps with channels last."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    require_names(BLOCK, hyper, act_layer=("gelu",), norm_layer=("layernorm",))
    return Block2d(
        CrossCovariance2d(o.dim, num_heads=o.num_heads, bias=o.qkv_bias),
        mlp_ratio=float(o.mlp_ratio),
        local_interaction=True,
        layer_scale=float(o.eta),
        drop_path=float(o.drop_path),
        norm_eps=float(o.norm_eps),
    )


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block."""
    return _block(weights, options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED).qkv_bias)


def _block(weights: Weights, bias: bool) -> dict[str, Tensor]:
    converted = {f"{name}.weight": weights.take(source) for name, source in SCALES.items()}
    converted["mixer.temperature"] = weights.take("attn.temperature").flatten()
    converted |= take_pairs(weights, {"mixer.qkv_proj": "attn.qkv"}, PAIR if bias else PAIR[:1])
    return converted | take_pairs(weights, NAMES) | take_pairs(weights, {"local.norm": "local_mp.bn"}, STATISTICS)


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original, for images of any size."""
    o = _options(hyper)
    backbone = xcit(
        o.embed_dim,
        o.depth,
        o.num_heads,
        patch_size=o.patch_size,
        image_size=o.img_size,
        mlp_ratio=float(o.mlp_ratio),
        bias=o.qkv_bias,
        layer_scale=float(o.eta),
        positions=o.use_pos,
        class_layers=o.cls_attn_layers,
        norm_cells=o.tokens_norm,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier; the projection of positions is there with ``use_pos=False`` too."""
    o = _options(hyper)
    names = {"backbone.norm": "norm"} | ({"head": "head"} if o.num_classes else {})
    converted = take_pairs(weights, names) | _stem(weights.part("patch_embed.proj."))
    positions = take_pairs(weights, {"backbone.fourier_positions.proj": "pos_embeder.token_projection"})
    if o.use_pos:
        converted |= {name: tensor.flatten(1) if tensor.dim() > 1 else tensor for name, tensor in positions.items()}
    for index in range(o.depth):
        converted |= named(f"backbone.blocks.{index}", _block(weights.part(f"blocks.{index}."), o.qkv_bias))
    converted["backbone.class_attention.cls_token"] = weights.take("cls_token")[0, 0]
    for index in range(o.cls_attn_layers):
        layer = _class_layer(weights.part(f"cls_attn_blocks.{index}."), o.qkv_bias)
        converted |= named(f"backbone.class_attention.layers.{index}", layer)
    return converted


def _stem(weights: Weights) -> dict[str, Tensor]:
    """Convolutions with norms; an activation after each."""
    converted = dict[str, Tensor]()
    for index in range(count_parts(weights, "{}.0.weight", step=2)):
        target, source = f"backbone.stem.layers.{index}", f"{2 * index}"
        converted[f"{target}.conv.weight"] = weights.take(f"{source}.0.weight")
        converted |= take_pairs(weights, {f"{target}.norm": f"{source}.1"}, (*PAIR, *STATISTICS))
    return converted


def _class_layer(weights: Weights, bias: bool) -> dict[str, Tensor]:
    converted = take_pairs(weights, CLASS_NAMES)
    converted |= {"mixer_scale": weights.take("gamma1"), "mlp_scale": weights.take("gamma2")}
    for kind in PAIR if bias else PAIR[:1]:
        qkv = weights.take(f"attn.qkv.{kind}")
        converted[f"q_proj.{kind}"], converted[f"kv_proj.{kind}"] = qkv.split([len(qkv) // 3, 2 * len(qkv) // 3])
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes from the shapes of the tensors; ``tokens_norm`` is that of the published model of these sizes."""
    if "pos_embeder.token_projection.weight" not in weights or "blocks.0.attn.temperature" not in weights:
        return {}
    width, block = weights.peek("cls_token").shape[-1], weights.part("blocks.0.")
    found = {
        "embed_dim": width, "depth": count_parts(weights, "blocks.{}.gamma1"),
        "patch_size": 2 ** count_parts(weights, "patch_embed.proj.{}.0.weight", step=2),
        "num_heads": len(block.peek("attn.temperature")), "mlp_ratio": len(block.peek("mlp.fc1.bias")) / width,
        "qkv_bias": "attn.qkv.bias" in block, "cls_attn_layers": count_parts(weights, "cls_attn_blocks.{}.gamma1"),
        "eta": 1.0,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip
    published = (found["embed_dim"], found["depth"], found["num_heads"]) in SIZES.values()
    return found | {"tokens_norm": published and width != NANO_WIDTH}


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    require_names(ORIGINAL, hyper, norm_layer=("layernorm(eps=1e-06)",))
    require_checked(ORIGINAL, o, CHECKED)
    return o


add_importer(BLOCK, build=build_block, convert=convert_block)
add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
