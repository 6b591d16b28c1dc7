"""xinghaochen/SLAB: PVT and PVTv2 with simplified linear attention, or with SLAB's norms alone.

Read in ``classification/models/slab_pvt.py`` (PyramidVisionTransformer) and ``slab_pvt_v2.py``
(PyramidVisionTransformerV2) at f58db00b, with ``la_sr_ratios="1111"`` as in all published configurations: SLAB's
attention is over the whole image. Smaller images of softmax attention have SLAB's norm in PVT, a layer norm in PVTv2.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....zoo.attention.slab_pvt import PVT, PVT_V2, pvt_stages, pvt_v2_stages
from ....zoo.attention.slab_stages import LINEAR, PATCH_SIZE, SOFTMAX
from ...importer import Weights, add_importer, options
from ..parts import count_parts, named, take_pairs
from .slab_parts import MLP, check_training, linear_attention, pair, prep_norms, square

DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dims": (64, 128, 256, 512),
    "num_heads": (1, 2, 4, 8), "mlp_ratios": (4, 4, 4, 4), "qkv_bias": False, "drop_path_rate": 0.0,
    "depths": (3, 4, 6, 3), "sr_ratios": (8, 4, 2, 1), "la_sr_ratios": "8421", "num_stages": 4, "kernel_size": 5,
    "attn_type": "LLLL", "qk_scale": None,
}  # fmt: skip
V2_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "linear": False}
PREP_EPS = 1e-6
"""Of the layer norms that training begins with."""
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


def build_v2(**hyper: Any) -> ImageClassifier:
    """The PVTv2 classifier with the options of the original; ``patch_size`` is not read there."""
    o = _read_v2(hyper)
    backbone = pvt_v2_stages(
        o.depths,
        o.attn_type,
        dims=o.embed_dims,
        num_heads=o.num_heads,
        mlp_ratios=[float(ratio) for ratio in o.mlp_ratios],
        reductions=o.sr_ratios,
        image_size=o.img_size,
        d_conv=o.kernel_size,
        qkv_bias=o.qkv_bias,
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert_v2(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the PVTv2 classifier; the norm of a stage is part of the patches after it."""
    o = _read_v2(hyper)
    converted = take_pairs(weights, {"head": "head"} if o.num_classes else {})
    converted |= prep_norms(weights, {"backbone.norm": f"norm{len(o.depths)}"})
    for stage, depth in enumerate(o.depths):
        source = f"patch_embed{stage + 1}"
        target, conv = (f"backbone.downsamplings.{stage - 1}", "conv") if stage else ("backbone.stem", "proj")
        converted |= take_pairs(weights, {f"{target}.{conv}": f"{source}.proj"})
        before = {f"{target}.input_norm": f"norm{stage}"} if stage else {}
        converted |= prep_norms(weights, {f"{target}.norm": f"{source}.norm"} | before)
        for index in range(depth):
            part = weights.part(f"block{stage + 1}.{index}.")
            block = _block(part, o.attn_type[stage], o.qkv_bias, v2=True)
            converted |= named(f"backbone.stages.{stage}.{index}", block)
    return converted


def _block(weights: Weights, kind: str, bias: bool, *, v2: bool = False) -> dict[str, Tensor]:
    found = take_pairs(weights, MLP | {"mixer.out_proj": "attn.proj"})
    found |= take_pairs(weights, {"mlp.conv2d": "mlp.dwconv.dwconv"}) if v2 else {}
    found |= prep_norms(weights, {"mixer_norm": "norm1", "mlp_norm": "norm2"})
    attention = weights.part("attn.")
    q, kv = pair(attention, "q", bias), pair(attention, "kv", bias)
    if kind == LINEAR:
        return found | named("mixer", linear_attention(attention, {name: torch.cat([q[name], kv[name]]) for name in q}))
    for name, tensors in (("q_proj", q), ("kv_proj", kv)):
        found |= named(f"mixer.{name}", tensors)
    if "sr.weight" in attention:
        inner = {"mixer.norm": "norm"}
        found |= take_pairs(attention, {"mixer.conv2d": "sr"})
        found |= take_pairs(attention, inner) if v2 else prep_norms(attention, inner)
    return found


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors; heads of softmax attention as published, 64 wide."""
    if "patch_embed1.proj.weight" not in weights or "pos_embed1" not in weights:
        return {}
    found, patch = _infer_stages(weights), weights.peek("patch_embed1.proj.weight").shape[-1]
    return found | {"patch_size": patch, "img_size": math.isqrt(weights.peek("pos_embed1").shape[1]) * patch}


def infer_v2(weights: Weights) -> dict[str, Any]:
    """All sizes, as of PVT; that of images from the positions of linear attention, where there are any."""
    if "patch_embed1.proj.weight" not in weights or "block1.0.mlp.dwconv.dwconv.weight" not in weights:
        return {}
    found = _infer_stages(weights)
    for stage, kind in enumerate(found["attn_type"]):
        if kind == LINEAR:
            cells = weights.peek(f"block{stage + 1}.0.attn.positional_encoding").shape[1]
            return found | {"img_size": math.isqrt(cells) * PATCH_SIZE * 2**stage}
    return found


def _infer_stages(weights: Weights) -> dict[str, Any]:
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
        "embed_dims": dims, "in_chans": patch.shape[1], "num_stages": count,
        "num_heads": [max(dim // width, 1) for dim, width in zip(dims, widths, strict=True)],
        "depths": [count_parts(stage, "{}.attn.q.weight") for stage in stages],
        "mlp_ratios": [len(b.peek("mlp.fc1.weight")) / dim for b, dim in zip(blocks, dims, strict=True)],
        "qkv_bias": "attn.q.bias" in blocks[0], "attn_type": "".join(LINEAR if slab else SOFTMAX for slab in linear),
        "sr_ratios": [b.peek("attn.sr.weight").shape[-1] if "attn.sr.weight" in b else 1 for b in blocks],
        "la_sr_ratios": "1" * count, "kernel_size": kernels[0] if kernels else 5,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def _read(hyper: Mapping[str, Any]) -> Any:
    check_training(PVT, hyper, PREP_EPS)
    return _checked(PVT, options(PVT, hyper, DEFAULTS, IGNORED))


def _read_v2(hyper: Mapping[str, Any]) -> Any:
    check_training(PVT_V2, hyper, PREP_EPS)
    o = _checked(PVT_V2, options(PVT_V2, hyper, V2_DEFAULTS, IGNORED))
    if o.linear:
        got, remedy = "linear=True", "attention to pooled images was not checked"
        raise argument_error(f"from_original({PVT_V2!r})", got, "linear=False", remedy)
    return o


def _checked(original: str, o: Any) -> Any:
    o.attn_type = LINEAR * o.num_stages if o.attn_type is None else o.attn_type
    stages, known = len(o.depths), set(o.attn_type) <= {LINEAR, SOFTMAX}
    whole = all(int(o.la_sr_ratios[i]) == 1 for i, kind in enumerate(o.attn_type[:stages]) if kind == LINEAR)
    if o.qk_scale is not None or not whole or not known or not stages == len(o.attn_type) == o.num_stages == 4:
        got = f"qk_scale={o.qk_scale}, la_sr_ratios={o.la_sr_ratios!r}, attn_type={o.attn_type!r}"
        wanted = "None, '1111', L or S for each of 4 stages"
        raise argument_error(f"from_original({original!r})", got, wanted, "these alone were checked")
    return o


add_importer(PVT, build=build, convert=convert, infer=infer)
add_importer(PVT_V2, build=build_v2, convert=convert_v2, infer=infer_v2)
