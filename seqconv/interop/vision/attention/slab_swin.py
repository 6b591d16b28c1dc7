"""xinghaochen/SLAB: Swin with simplified linear attention in its first stages, and Swin with SLAB's norms alone.

Read in ``classification/models/slab_swin.py`` (SlabSwinTransformer) and ``swin_transformer.py`` (SwinTransformer) at
f58db00b. SLAB's attention is over the whole image there (``window_size=56``). Checkpoints whose norms were merged into
the projections are not read.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....zoo.attention.slab_stages import (
    LINEAR,
    PREP_STEPS,
    SLAB_SWIN,
    SOFTMAX,
    SWIN,
    SWIN_STEPS,
    WINDOW,
    stage_sizes,
    swin_stages,
)
from ...importer import Weights, add_importer, options
from ..parts import count_parts, named, take_pairs
from .slab_parts import MLP, check_training, linear_attention, pair, prep_norms, square

DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 4, "in_chans": 3, "num_classes": 1000, "embed_dim": 96, "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24), "window_size": 7, "mlp_ratio": 4.0, "qkv_bias": True, "drop_path_rate": 0.1,
    "ape": False, "patch_norm": True, "qk_scale": None,
}  # fmt: skip
SLAB_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "kernel_size": 5, "attn_type": "LLLL"}
PREP_EPS = 1e-5
"""Of the layer norms that training begins with."""
IGNORED = ("drop_rate", "attn_drop_rate", "norm_layer", "use_checkpoint", "fused_window_process", "focusing_factor")
BUFFERS = ("relative_position_index", "attn_mask")


def _builder(original: str) -> Any:
    def build(**hyper: Any) -> ImageClassifier:
        """The classifier with the options of the original."""
        o = _read(original, hyper)
        backbone = swin_stages(
            o.embed_dim,
            o.depths,
            o.num_heads,
            o.kinds,
            steps=SWIN_STEPS if original == SLAB_SWIN else PREP_STEPS,
            image_size=o.img_size,
            patch_size=o.patch_size,
            windows=o.windows,
            d_conv=o.kernel_size,
            qkv_bias=o.qkv_bias,
            mlp_ratio=float(o.mlp_ratio),
            in_channels=o.in_chans,
            drop_path=float(o.drop_path_rate),
        )
        return ImageClassifier(backbone, o.num_classes)

    return build


def _converter(original: str) -> Any:
    def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
        """The state dict of the classifier."""
        o = _read(original, hyper)
        names = {"backbone.stem.proj": "patch_embed.proj"} | ({"head": "head"} if o.num_classes else {})
        converted = take_pairs(weights, names)
        converted |= prep_norms(weights, {"backbone.stem.norm": "patch_embed.norm", "backbone.norm": "norm"})
        for stage, depth in enumerate(o.depths):
            layer, target = weights.part(f"layers.{stage}."), f"backbone.downsamplings.{stage}"
            if stage + 1 < len(o.depths):
                converted[f"{target}.proj.weight"] = layer.take("downsample.reduction.weight")
                converted |= prep_norms(layer, {f"{target}.norm": "downsample.norm"})
            for index in range(depth):
                block = _block(layer.part(f"blocks.{index}."), o.kinds[stage], o.qkv_bias)
                converted |= named(f"backbone.stages.{stage}.{index}", block)
        return converted

    return convert


def _block(weights: Weights, kind: str, qkv_bias: bool) -> dict[str, Tensor]:
    found = take_pairs(weights, MLP | {"mixer.out_proj": "attn.proj"})
    found |= prep_norms(weights, {"mixer_norm": "norm1", "mlp_norm": "norm2"})
    attention = weights.part("attn.")
    qkv = pair(attention, "qkv", qkv_bias)
    if kind == LINEAR:
        return found | named("mixer", linear_attention(attention, qkv))
    weights.ignore("attn_mask", "attn.relative_position_index")
    table = attention.take("relative_position_bias_table")
    side = square("relative_position_bias_table", len(table))
    found |= {f"mixer.qkv_proj.{name}": tensor for name, tensor in qkv.items()}
    return found | {"mixer.relative_bias": table.unflatten(0, (side, side))}


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    stages = [weights.part(f"layers.{i}.") for i in range(count_parts(weights, "layers.{}.blocks.0.attn.qkv.weight"))]
    if not stages or "patch_embed.proj.weight" not in weights:
        return {}
    patch = weights.peek("patch_embed.proj.weight")
    parts = [_infer_stage(stage) for stage in stages]
    sizes = [size * 2**index for index, (_, _, size) in enumerate(parts) if size]
    found = {
        "embed_dim": len(patch), "patch_size": patch.shape[-1], "in_chans": patch.shape[1],
        "depths": [count_parts(stage, "blocks.{}.attn.qkv.weight") for stage in stages],
        "num_heads": [heads for _, heads, _ in parts], "qkv_bias": "blocks.0.attn.qkv.bias" in stages[0],
        "mlp_ratio": len(stages[0].peek("blocks.0.mlp.fc1.weight")) / len(patch),
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
        "img_size": sizes[0] * patch.shape[-1] if sizes else 224, "windows": [window for window, _, _ in parts],
    }  # fmt: skip
    linear = next((stage for stage in stages if "blocks.0.attn.dwc.weight" in stage), None)
    if linear is None:
        return found
    kinds = "".join(LINEAR if "blocks.0.attn.dwc.weight" in stage else SOFTMAX for stage in stages)
    kernel = linear.peek("blocks.0.attn.dwc.weight").shape[-1]
    return found | {"attn_type": kinds, "kernel_size": kernel, "window_size": found["img_size"]}


def _infer_stage(weights: Weights) -> tuple[int, int, int]:
    """Window, heads, and rows of cells, 0 where the tensors do not show them."""
    block = weights.part("blocks.0.attn.")
    if "dwc.weight" in block:
        heads = block.peek("proj.weight").shape[0] // len(block.peek("dwc.weight"))
        size = math.isqrt(block.peek("positional_encoding").shape[1])
        return size, heads, size
    table = block.peek("relative_position_bias_table")
    window = (math.isqrt(len(table)) + 1) // 2
    if "blocks.1.attn_mask" in weights:
        return window, table.shape[1], window * math.isqrt(len(weights.peek("blocks.1.attn_mask")))
    return window, table.shape[1], window if "blocks.1.attn.qkv.weight" in weights else 0


def _read(original: str, hyper: Mapping[str, Any]) -> Any:
    check_training(original, hyper, PREP_EPS)
    slab = original == SLAB_SWIN
    given = {name: value for name, value in hyper.items() if slab or name not in ("attn_type", "kernel_size")}
    o = options(original, given, {**(SLAB_DEFAULTS if slab else DEFAULTS), "windows": None}, IGNORED)
    o.kinds = o.attn_type if slab else SOFTMAX * len(o.depths)
    o.kernel_size = o.kernel_size if slab else 5
    sizes = stage_sizes(o.img_size, o.patch_size, len(o.depths))
    least = max((size for kind, size in zip(o.kinds, sizes, strict=False) if kind == LINEAR), default=0)
    known = len(o.kinds) == len(o.depths) and set(o.kinds) <= {LINEAR, SOFTMAX}
    if o.ape or not o.patch_norm or o.qk_scale is not None or not known or o.window_size < least:
        got = f"ape={o.ape}, patch_norm={o.patch_norm}, qk_scale={o.qk_scale}, attn_type={o.kinds!r}, "
        got += f"window_size={o.window_size}"
        wanted = f"False, True, None, L or S for each stage, a window of at least {least}"
        raise argument_error(f"from_original({original!r})", got, wanted, "these alone were checked")
    if o.windows is None:
        softmax = (WINDOW if o.window_size <= 56 else 12) if slab else o.window_size
        o.windows = [min(softmax, size) for size in sizes]
    return o


for _original in (SLAB_SWIN, SWIN):
    add_importer(_original, build=_builder(_original), convert=_converter(_original), infer=infer)
