"""xinghaochen/SLAB: CSwin with simplified linear attention in its first stages.

Read in ``classification/models/slab_cswin.py`` (CSWinTransformer) at f58db00b, with SLAB's attention over the whole
image (``la_split_size="56-28-14-7"`` at 224 pixels, as published). Its parameter ``scale`` takes no part.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....zoo.attention.slab_stages import CSWIN, LINEAR, PATCH_SIZE, SOFTMAX, cswin_stages, stage_sizes
from ...importer import Weights, add_importer, options
from ..parts import count_parts, named, take_pairs
from .slab_parts import MLP, check_training, linear_attention, pair, prep_norms, square

DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "in_chans": 3, "num_classes": 1000, "embed_dim": 96, "depth": (2, 2, 6, 2),
    "split_size": (1, 2, 7, 7), "la_split_size": "1-2-7-7", "num_heads": (2, 4, 8, 16), "mlp_ratio": 4.0,
    "qkv_bias": True, "drop_path_rate": 0.0, "kernel_size": 5, "attn_type": "LLLL", "qk_scale": None,
    "hybrid_backbone": None,
}  # fmt: skip
PREP_EPS = 1e-5
"""Of the layer norms that training begins with."""
IGNORED = ("patch_size", "drop_rate", "attn_drop_rate", "norm_layer", "use_chk", "focusing_factor")
STAGES = 4


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(hyper)
    backbone = cswin_stages(
        o.embed_dim,
        o.depth,
        o.attn_type,
        num_heads=o.num_heads,
        strips=o.strips,
        image_size=o.img_size,
        d_conv=o.kernel_size,
        qkv_bias=o.qkv_bias,
        mlp_ratio=float(o.mlp_ratio),
        in_channels=o.in_chans,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _read(hyper)
    converted = take_pairs(weights, {"backbone.stem.proj": "stage1_conv_embed.0"})
    converted |= take_pairs(weights, {"head": "head"} if o.num_classes else {})
    converted |= prep_norms(weights, {"backbone.stem.norm": "stage1_conv_embed.2", "backbone.norm": "norm"})
    for stage, depth in enumerate(o.depth):
        if stage:
            target, source = f"backbone.downsamplings.{stage - 1}", f"merge{stage}"
            converted |= take_pairs(weights, {f"{target}.conv": f"{source}.conv"})
            converted |= prep_norms(weights, {f"{target}.norm": f"{source}.norm"})
        for index in range(depth):
            block = _block(weights.part(f"stage{stage + 1}.{index}."), o.attn_type[stage], o.qkv_bias)
            converted |= named(f"backbone.stages.{stage}.{index}", block)
    return converted


def _block(weights: Weights, kind: str, qkv_bias: bool) -> dict[str, Tensor]:
    found = take_pairs(weights, MLP | {"mixer.out_proj": "proj"})
    found |= prep_norms(weights, {"mixer_norm": "norm1", "mlp_norm": "norm2"})
    qkv = pair(weights, "qkv", qkv_bias)
    if kind == LINEAR:
        attention = weights.part("attns.0.")
        attention.ignore("scale")
        return found | named("mixer", linear_attention(attention, qkv) | take_pairs(attention, {"local": "get_v"}))
    found |= {f"mixer.qkv_proj.{name}": tensor for name, tensor in qkv.items()}
    axes = count_parts(weights, "attns.{}.get_v.weight")
    return found | take_pairs(weights, {f"mixer.convs.{axis}": f"attns.{axis}.get_v" for axis in range(axes)})


def infer(weights: Weights) -> dict[str, Any]:
    """The sizes, from the shapes: all but strips, and heads of softmax attention, 32 wide as published."""
    if "stage1_conv_embed.0.weight" not in weights or "stage1.0.qkv.weight" not in weights:
        return {}
    stem = weights.peek("stage1_conv_embed.0.weight")
    stages = [weights.part(f"stage{index}.") for index in range(1, STAGES + 1)]
    blocks = [stage.part("0.") for stage in stages]
    linear = ["attns.0.dwc.weight" in block for block in blocks]
    widths = [len(b.peek("attns.0.dwc.weight")) if slab else 32 for b, slab in zip(blocks, linear, strict=True)]
    first = next((index for index, slab in enumerate(linear) if slab), None)
    found = {
        "embed_dim": len(stem), "in_chans": stem.shape[1],
        "depth": [count_parts(stage, "{}.qkv.weight") for stage in stages],
        "num_heads": [max(b.peek("proj.weight").shape[0] // w, 1) for b, w in zip(blocks, widths, strict=True)],
        "mlp_ratio": len(blocks[0].peek("mlp.fc1.weight")) / len(stem), "qkv_bias": "qkv.bias" in blocks[0],
        "attn_type": "".join(LINEAR if slab else SOFTMAX for slab in linear),
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip
    if first is None:
        return found
    cells = square("positional_encoding", blocks[first].peek("attns.0.positional_encoding").shape[1])
    size, taps = cells * PATCH_SIZE * 2**first, blocks[first].peek("attns.0.dwc.weight").shape[-1]
    whole = "-".join(str(cells) for cells in stage_sizes(size, PATCH_SIZE, STAGES))
    return found | {"img_size": size, "kernel_size": taps, "la_split_size": whole}


def _read(hyper: Mapping[str, Any]) -> Any:
    check_training(CSWIN, hyper, PREP_EPS)
    o = options(CSWIN, hyper, DEFAULTS, IGNORED)
    sizes, splits = stage_sizes(o.img_size, PATCH_SIZE, STAGES), [int(size) for size in o.la_split_size.split("-")]
    known = len(o.attn_type) == STAGES and set(o.attn_type) <= {LINEAR, SOFTMAX}
    parts = zip(o.attn_type, sizes, splits, strict=False)
    whole = all(split == size for kind, size, split in list(parts)[: STAGES - 1] if kind == LINEAR)
    if o.qk_scale is not None or o.hybrid_backbone is not None or not known or not whole:
        got = f"qk_scale={o.qk_scale}, hybrid_backbone={o.hybrid_backbone}, attn_type={o.attn_type!r}, "
        got += f"la_split_size={o.la_split_size!r}"
        wanted = f"None, None, L or S for each stage, {'-'.join(str(size) for size in sizes)!r}"
        raise argument_error(f"from_original({CSWIN!r})", got, wanted, "these alone were checked")
    last = STAGES - 1
    o.strips = [None if i == last or split == sizes[i] else split for i, split in enumerate(o.split_size)]
    return o


add_importer(CSWIN, build=build, convert=convert, infer=infer)
