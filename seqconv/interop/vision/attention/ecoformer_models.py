"""ziplab/EcoFormer, whai362/PVT, Meituan-AutoML/Twins: PVTv2 and Twins, with attention of codes or softmax attention.

Read in ``pvt/pvt_v2.py`` (PyramidVisionTransformerV2) and ``twins/gvt.py`` (ALTGVT) of EcoFormer at a277f9e8, in
``classification/pvt_v2.py`` of PVT at 57e2dfa and ``gvt.py`` (ALTGVT, CPVTV2) of Twins at c1ff671. ``attn_type``, a
setting of EcoFormer's program, is ``"ecoformer"``, ``"msa"`` or ``"sra"`` (of all stages but the last), as are
``nbits`` and ``m``; ``block_cls`` of Twins is the name of its class. A block of EcoFormer's Twins has no windows,
whatever ``wss`` is. Hash functions must be trained.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....zoo.attention import twins_pvt
from ....zoo.attention.ecoformer import (
    NUM_ANCHORS,
    NUM_BITS,
    PVT,
    TWINS,
    grouped,
    hashed,
    in_turns,
    pvt_v2,
    reduced,
    twins,
)
from ...importer import Weights, add_importer, options
from ..parts import count_parts, named, require_names, take_pairs
from .ecoformer import convert as convert_hashed
from .slab_parts import MLP, kinds

HASHED, WHOLE, REDUCED = "ecoformer", "msa", "sra"
TWINS_BLOCKS = ("EcoBlock", "StandardBlock", "GroupBlock", "GroupBlockv2", "Block")
SHARED: Mapping[str, Any] = {
    "img_size": 224, "in_chans": 3, "num_classes": 1000, "qkv_bias": False, "qk_scale": None, "drop_path_rate": 0.0,
    "nbits": NUM_BITS, "m": NUM_ANCHORS,
}  # fmt: skip
PVT_DEFAULTS: Mapping[str, Any] = {
    **SHARED, "embed_dims": (64, 128, 256, 512), "num_heads": (1, 2, 4, 8), "mlp_ratios": (4, 4, 4, 4),
    "depths": (3, 4, 6, 3), "sr_ratios": (8, 4, 2, 1), "num_stages": 4, "linear": False, "attn_type": HASHED,
}  # fmt: skip
TWINS_DEFAULTS: Mapping[str, Any] = {
    **SHARED, "patch_size": 4, "embed_dims": (64, 128, 256), "num_heads": (1, 2, 4), "mlp_ratios": (4, 4, 4),
    "depths": (4, 4, 4), "sr_ratios": (4, 2, 1), "wss": (7, 7, 7), "block_cls": "StandardBlock",
}  # fmt: skip
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    PVT: PVT_DEFAULTS,
    TWINS: TWINS_DEFAULTS,
    twins_pvt.PVT: {**PVT_DEFAULTS, "attn_type": REDUCED},
    twins_pvt.SVT: {**TWINS_DEFAULTS, "block_cls": "GroupBlock"},
    twins_pvt.PCPVT: {
        **TWINS_DEFAULTS, "embed_dims": (64, 128, 256, 512), "num_heads": (1, 2, 4, 8), "mlp_ratios": (4, 4, 4, 4),
        "depths": (3, 4, 6, 3), "sr_ratios": (8, 4, 2, 1), "block_cls": "Block",
    },
}  # fmt: skip
IGNORED = ("drop_rate", "attn_drop_rate", "norm_layer", "topk")
TWINS_WIDTH = 32
"""Channels of a head of Twins-SVT where the shapes do not tell them, as published; of the others one head in front."""


def build_pvt(original: str, /, **hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original; ``patch_size`` is not read there."""
    o, mixers = _read_pvt(original, hyper), []
    for stage, heads in enumerate(o.num_heads):
        kind, bias = WHOLE if original == PVT and stage == len(o.depths) - 1 else o.attn_type, o.qkv_bias
        coded = partial(hashed, num_bits=o.nbits, num_anchors=o.m)
        mixers.append(
            coded(heads, bias=bias)
            if kind == HASHED
            else reduced(heads, o.sr_ratios[stage] if kind == REDUCED else 1, bias=bias)
        )
    ratios = [float(ratio) for ratio in o.mlp_ratios]
    backbone = pvt_v2(o.embed_dims, o.depths, mixers, mlp_ratios=ratios, **_shared(o))
    return ImageClassifier(backbone, o.num_classes)


def build_twins(original: str, /, **hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read_twins(original, hyper)
    ratios, mixers = (
        [float(ratio) for ratio in o.mlp_ratios],
        [_twins_mixer(o, stage) for stage in range(len(o.depths))],
    )
    backbone = twins(o.embed_dims, o.depths, mixers, mlp_ratios=ratios, patch_size=o.patch_size, **_shared(o))
    return ImageClassifier(backbone, o.num_classes)


def _twins_mixer(o: Any, stage: int) -> Any:
    heads, reduction, bias = o.num_heads[stage], o.sr_ratios[stage], o.qkv_bias
    whole, smaller = reduced(heads, bias=bias), reduced(heads, reduction, bias=bias)
    if o.block_cls == "Block":
        return smaller
    if o.block_cls == "StandardBlock":
        return whole
    if o.block_cls == "EcoBlock":
        return whole if reduction == 1 else hashed(heads, num_bits=o.nbits, num_anchors=o.m, bias=bias)
    return in_turns(grouped(heads, o.wss[stage], bias=bias), whole if o.block_cls == "GroupBlockv2" else smaller)


def _shared(o: Any) -> dict[str, Any]:
    return {"in_channels": o.in_chans, "drop_path": float(o.drop_path_rate)}


def convert_pvt(original: str, /, weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier; the norm of a stage is part of the patches after it."""
    o = _read_pvt(original, hyper)
    last = len(o.depths)
    converted = take_pairs(weights, {"backbone.norm": f"norm{last}"} | ({"head": "head"} if o.num_classes else {}))
    for stage, depth in enumerate(o.depths):
        source, target = f"patch_embed{stage + 1}", f"backbone.downsamplings.{stage - 1}"
        names = {f"{target}.input_norm": f"norm{stage}", f"{target}.conv": f"{source}.proj"}
        names = names if stage else {"backbone.stem.proj": f"{source}.proj"}
        norm = f"{target}.norm" if stage else "backbone.stem.norm"
        converted |= take_pairs(weights, names | {norm: f"{source}.norm"})
        blocks = weights.part(f"block{stage + 1}.")
        for index in range(depth):
            block = _block(blocks.part(f"{index}."), o.qkv_bias, {"mlp.conv2d": "mlp.dwconv.dwconv"})
            converted |= named(f"backbone.stages.{stage}.{index}", block)
    return converted


def convert_twins(original: str, /, weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read_twins(original, hyper)
    converted = take_pairs(weights, {"backbone.norm": "norm"} | ({"head": "head"} if o.num_classes else {}))
    for stage, depth in enumerate(o.depths):
        source, target = f"patch_embeds.{stage}", f"backbone.downsamplings.{stage - 1}"
        names = {f"{target}.conv": f"{source}.proj", f"{target}.norm": f"{source}.norm"}
        first = {"backbone.stem.proj": f"{source}.proj", "backbone.stem.norm": f"{source}.norm"}
        names = (names if stage else first) | {f"backbone.position_convs.{stage}": f"pos_block.{stage}.proj.0"}
        converted |= take_pairs(weights, names)
        for index in range(depth):
            block = _block(weights.part(f"blocks.{stage}.{index}."), o.qkv_bias, {}, grouped=_is_grouped(o, index))
            converted |= named(f"backbone.stages.{stage}.{index}", block)
    return converted


def _is_grouped(o: Any, index: int) -> bool:
    return o.block_cls.startswith("Group") and index % 2 == 0


def _block(weights: Weights, bias: bool, other: Mapping[str, str], *, grouped: bool = False) -> dict[str, Tensor]:
    names = {"mixer_norm": "norm1", "mlp_norm": "norm2", **MLP, **other}
    return take_pairs(weights, names) | named("mixer", _attention(weights.part("attn."), bias, grouped))


def _attention(weights: Weights, bias: bool, grouped: bool) -> dict[str, Tensor]:
    """Of any kind; queries, keys and values of attention to all cells are joined there and not here."""
    if "fast_attention.ksh.A" in weights:
        heads, bits, anchors = weights.peek("fast_attention.ksh.A").shape
        hyper = {"dim": len(weights.peek("proj.weight")), "num_heads": heads, "nbits": bits, "m": anchors}
        return named("attention", convert_hashed(weights, hyper | {"qkv_bias": bias}))
    found = take_pairs(weights, {"out_proj": "proj"})
    if "q.weight" in weights:
        found |= take_pairs(weights, {"q_proj": "q", "kv_proj": "kv"}, kinds(bias))
        return found | (take_pairs(weights, {"conv2d": "sr", "norm": "norm"}) if "sr.weight" in weights else {})
    for kind in kinds(bias):
        joined = weights.take(f"qkv.{kind}")
        split = {"q_proj": joined[: len(joined) // 3], "kv_proj": joined[len(joined) // 3 :]}
        found |= {f"{name}.{kind}": tensor for name, tensor in ({"qkv_proj": joined} if grouped else split).items()}
    return found


def infer_pvt(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors; heads of other attention as wide as those of the codes."""
    if "patch_embed1.proj.weight" not in weights or "block1.0.mlp.dwconv.dwconv.weight" not in weights:
        return {}
    count = 0
    while f"patch_embed{count + 1}.proj.weight" in weights:
        count += 1
    stages = [weights.part(f"block{index}.") for index in range(1, count + 1)]
    found = _infer_stages(stages)
    hashed_, reduced_ = ("0.attn.fast_attention.ksh.A" in stages[0]), "0.attn.q.weight" in stages[0]
    return found | {
        "in_chans": weights.peek("patch_embed1.proj.weight").shape[1], "num_stages": count,
        "attn_type": HASHED if hashed_ else REDUCED if reduced_ else WHOLE,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def infer_twins(original: str, /, weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors; a window is taken to be of 7 by 7 cells, a head 32 wide.

    Of EcoFormer they do not tell blocks of attention to all cells from those that alternate with attention in windows.
    """
    if "pos_block.0.proj.0.weight" not in weights:
        return {}
    count = count_parts(weights, "patch_embeds.{}.proj.weight")
    stages = [weights.part(f"blocks.{index}.") for index in range(count)]
    patch = weights.peek("patch_embeds.0.proj.weight")
    first = stages[0]
    hashed_, reduced_ = "0.attn.fast_attention.ksh.A" in first, "1.attn.q.weight" in first
    all_reduced, untold = "0.attn.q.weight" in first, None if original == TWINS else DEFAULTS[original]["block_cls"]
    found = _infer_stages(stages, None if all_reduced else TWINS_WIDTH, block=0 if hashed_ or all_reduced else 1)
    return found | {
        "in_chans": patch.shape[1], "patch_size": patch.shape[-1], "wss": [7] * count,
        "block_cls": "EcoBlock" if hashed_ else "Block" if all_reduced else "GroupBlock" if reduced_ else untold,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def _infer_stages(stages: Sequence[Weights], width: int | None = None, block: int = 0) -> dict[str, Any]:
    """What the blocks tell; without a width of the heads the first stage has one."""
    dims = [len(stage.peek("0.norm1.weight")) for stage in stages]
    hidden = [len(stage.peek("0.mlp.fc1.weight")) for stage in stages]
    found: dict[str, Any] = {
        "embed_dims": dims, "depths": [count_parts(stage, "{}.norm1.weight") for stage in stages],
        "mlp_ratios": [inner / dim for inner, dim in zip(hidden, dims, strict=True)],
        "qkv_bias": any(f"0.attn.{name}.bias" in stages[0] for name in ("to_qk", "q", "qkv")),
        "sr_ratios": [_reduction(stage, f"{block}.attn.") for stage in stages],
    }  # fmt: skip
    if (name := "0.attn.fast_attention.ksh.A") in stages[0]:
        heads, found["nbits"], found["m"] = stages[0].peek(name).shape
        width = dims[0] // heads
    return found | {"num_heads": [max(dim // (width or dims[0]), 1) for dim in dims]}


def _reduction(stage: Weights, attention: str) -> int:
    """Cells along each axis for a key; attention of codes has any above 1."""
    if f"{attention}fast_attention.ksh.A" in stage:
        return 2
    return stage.peek(f"{attention}sr.weight").shape[-1] if f"{attention}sr.weight" in stage else 1


def _read_pvt(original: str, hyper: Mapping[str, Any]) -> Any:
    o = options(original, hyper, DEFAULTS[original], (*IGNORED, "patch_size"))
    require_names(original, hyper, norm_layer=("layernorm(eps=1e-06)",))
    if o.qk_scale is not None or o.linear or o.attn_type not in (HASHED, WHOLE, REDUCED) or len(o.depths) != 4:
        got = f"qk_scale={o.qk_scale}, linear={o.linear}, attn_type={o.attn_type!r}, {len(o.depths)} stages"
        wanted = f"None, False, {HASHED!r}, {WHOLE!r} or {REDUCED!r}, 4 stages"
        raise argument_error(f"from_original({original!r})", got, wanted, "these alone were checked")
    return o


def _read_twins(original: str, hyper: Mapping[str, Any]) -> Any:
    defaults = DEFAULTS[original]
    block = hyper.get("block_cls", defaults["block_cls"])
    o = options(original, {**hyper, "block_cls": getattr(block, "__name__", str(block))}, defaults, IGNORED)
    require_names(original, hyper, norm_layer=("layernorm(eps=1e-06)",))
    windows = all(size > 1 for size in o.wss) or not o.block_cls.startswith("Group")
    if o.qk_scale is not None or o.block_cls not in TWINS_BLOCKS or not windows:
        got = f"qk_scale={o.qk_scale}, block_cls={o.block_cls!r}, wss={o.wss}"
        wanted = f"None, one of {', '.join(TWINS_BLOCKS)}, windows above 1"
        raise argument_error(f"from_original({original!r})", got, wanted, "these alone were checked")
    return o


for _original in (PVT, twins_pvt.PVT):
    _build, _convert = partial(build_pvt, _original), partial(convert_pvt, _original)
    add_importer(_original, build=_build, convert=_convert, infer=infer_pvt)
for _original in (TWINS, twins_pvt.SVT, twins_pvt.PCPVT):
    _build, _convert = partial(build_twins, _original), partial(convert_twins, _original)
    add_importer(_original, build=_build, convert=_convert, infer=partial(infer_twins, _original))
