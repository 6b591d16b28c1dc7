"""xinghaochen/SLAB: PVT with simplified linear attention, or with SLAB's norms alone.

Read in ``classification/models/slab_pvt.py`` (PyramidVisionTransformer) at f58db00b, with ``la_sr_ratios="1111"`` as in
all published configurations: SLAB's attention is over the whole image.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....zoo.slab_stages import LINEAR, PVT, SOFTMAX, pvt_stages
from ...importer import Weights, add_importer, options
from ..parts import count_parts, named, take_pairs
from .slab_parts import MLP, linear_attention, pair, prep_norms, square

DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dims": (64, 128, 256, 512),
    "num_heads": (1, 2, 4, 8), "mlp_ratios": (4, 4, 4, 4), "qkv_bias": False, "drop_path_rate": 0.0,
    "depths": (3, 4, 6, 3), "sr_ratios": (8, 4, 2, 1), "la_sr_ratios": "8421", "num_stages": 4, "kernel_size": 5,
    "attn_type": "LLLL", "qk_scale": None,
}  # fmt: skip
IGNORED = ("drop_rate", "attn_drop_rate", "norm_layer", "focusing_factor")


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(hyper)
    backbone = pvt_stages(
        o.depths,
        o.attn_type,
        dims=o.embed_dims,
        num_heads=o.num_heads,
        mlp_ratios=[float(ratio) for ratio in o.mlp_ratios],
        reductions=o.sr_ratios,
        image_size=o.img_size,
        patch_size=o.patch_size,
        d_conv=o.kernel_size,
        qkv_bias=o.qkv_bias,
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read(hyper)
    converted = take_pairs(weights, {"head": "head"} if o.num_classes else {})
    for stage, depth in enumerate(o.depths):
        source = f"patch_embed{stage + 1}"
        target, conv = (f"backbone.downsamplings.{stage - 1}", "conv") if stage else ("backbone.stem", "proj")
        converted |= take_pairs(weights, {f"{target}.{conv}": f"{source}.proj"})
        converted |= prep_norms(weights, {f"{target}.norm": f"{source}.norm"})
        positions = weights.take(f"pos_embed{stage + 1}")[0]
        side = square(f"pos_embed{stage + 1}", len(positions))
        converted[f"backbone.positions.{stage}"] = positions.unflatten(0, (side, side))
        for index in range(depth):
            block = _block(weights.part(f"block{stage + 1}.{index}."), o.attn_type[stage], o.qkv_bias)
            converted |= named(f"backbone.stages.{stage}.{index}", block)
    return converted


def _block(weights: Weights, kind: str, bias: bool) -> dict[str, Tensor]:
    found = take_pairs(weights, MLP | {"mixer.out_proj": "attn.proj"})
    found |= prep_norms(weights, {"mixer_norm": "norm1", "mlp_norm": "norm2"})
    attention = weights.part("attn.")
    q, kv = pair(attention, "q", bias), pair(attention, "kv", bias)
    if kind == LINEAR:
        return found | named("mixer", linear_attention(attention, {name: torch.cat([q[name], kv[name]]) for name in q}))
    for name, tensors in (("q_proj", q), ("kv_proj", kv)):
        found |= named(f"mixer.{name}", tensors)
    if "sr.weight" in attention:
        found |= take_pairs(attention, {"mixer.conv2d": "sr"}) | prep_norms(attention, {"mixer.norm": "norm"})
    return found


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors; heads of softmax attention as published, 64 wide."""
    if "patch_embed1.proj.weight" not in weights or "pos_embed1" not in weights:
        return {}
    count = 0
    while f"patch_embed{count + 1}.proj.weight" in weights:
        count += 1
    stages = [weights.part(f"block{index}.") for index in range(1, count + 1)]
    patch = weights.peek("patch_embed1.proj.weight")
    blocks = [stage.part("0.") for stage in stages]
    dims = [len(block.peek("attn.q.weight")) for block in blocks]
    linear = ["attn.dwc.weight" in block for block in blocks]
    widths = [len(b.peek("attn.dwc.weight")) if slab else 64 for b, slab in zip(blocks, linear, strict=True)]
    kernels = [b.peek("attn.dwc.weight").shape[-1] for b, slab in zip(blocks, linear, strict=True) if slab]
    return {
        "embed_dims": dims, "patch_size": patch.shape[-1], "in_chans": patch.shape[1], "num_stages": count,
        "img_size": math.isqrt(weights.peek("pos_embed1").shape[1]) * patch.shape[-1],
        "num_heads": [max(dim // width, 1) for dim, width in zip(dims, widths, strict=True)],
        "depths": [count_parts(stage, "{}.attn.q.weight") for stage in stages],
        "mlp_ratios": [len(b.peek("mlp.fc1.weight")) / dim for b, dim in zip(blocks, dims, strict=True)],
        "qkv_bias": "attn.q.bias" in blocks[0], "attn_type": "".join(LINEAR if slab else SOFTMAX for slab in linear),
        "sr_ratios": [b.peek("attn.sr.weight").shape[-1] if "attn.sr.weight" in b else 1 for b in blocks],
        "la_sr_ratios": "1" * count, "kernel_size": kernels[0] if kernels else 5,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def _read(hyper: Mapping[str, Any]) -> Any:
    o = options(PVT, hyper, DEFAULTS, IGNORED)
    stages, known = len(o.depths), set(o.attn_type) <= {LINEAR, SOFTMAX}
    whole = all(int(o.la_sr_ratios[i]) == 1 for i, kind in enumerate(o.attn_type[:stages]) if kind == LINEAR)
    if o.qk_scale is not None or not whole or not known or not stages == len(o.attn_type) == o.num_stages == 4:
        got = f"qk_scale={o.qk_scale}, la_sr_ratios={o.la_sr_ratios!r}, attn_type={o.attn_type!r}"
        wanted = "None, '1111', L or S for each of 4 stages"
        raise argument_error(f"from_original({PVT!r})", got, wanted, "these alone were checked")
    return o


add_importer(PVT, build=build, convert=convert, infer=infer)
