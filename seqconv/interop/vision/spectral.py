"""raoyongming/GFNet and NVlabs/AFNO-transformer: mixers in the spectrum of the image, and GFNet's classifiers.

Read in ``gfnet.py`` (GlobalFilter, GFNet) of GFNet at 2de48b62, ``afno/afno2d.py`` and ``afno1d.py`` of
AFNO-transformer at 941e924f, which cuts frequencies (``hard_thresholding_fraction``) of one axis alone, at a bound
counted from all cells. AFNO1D reads one row: (batch, 1, length, channels).
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.backbones.backbone import ImageClassifier
from ...vision.backbones.plain_2d import PlainBackbone2d
from ...vision.mixers.frequency.fourier_operator import AFNO2d
from ...vision.mixers.frequency.global_filter import GlobalFilter2d
from ..importer import Weights, add_importer, options
from .parts import count_parts, require_names, take_pairs

FILTER, MODEL = "raoyongming/GFNet:GlobalFilter", "raoyongming/GFNet:GFNet"
AFNO = ("NVlabs/AFNO-transformer:AFNO1D", "NVlabs/AFNO-transformer:AFNO2D")
FILTER_DEFAULTS: Mapping[str, Any] = {"dim": ..., "h": 14, "w": 8, "frequencies": None}
DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "num_classes": 1000, "embed_dim": 768, "depth": 12,
    "mlp_ratio": 4.0, "drop_path_rate": 0.0, "representation_size": None, "uniform_drop": False,
}  # fmt: skip
AFNO_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": ..., "num_blocks": 8, "sparsity_threshold": 0.01, "hard_thresholding_fraction": 1,
    "hidden_size_factor": 1,
}  # fmt: skip
AFNO_WEIGHTS = {"up_weight": "w1", "up_bias": "b1", "down_weight": "w2", "down_bias": "b2"}
BLOCK_OPTIONS: Mapping[str, Any] = {"norm_eps": 1e-6, "single_residual": True}


def build_filter(**hyper: Any) -> GlobalFilter2d:
    """The mixer; ``w`` counts the frequencies of a row, or its columns if there are fewer frequencies."""
    o = options(FILTER, hyper, FILTER_DEFAULTS, ("map",))
    columns = o.w
    if o.frequencies in (None, o.w):
        columns = o.h if o.h // 2 + 1 == o.w else 2 * (o.w - 1)
    return GlobalFilter2d(o.dim, size=[o.h, columns])


def convert_filter(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    return {"weight": weights.take("complex_weight")}


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = read(MODEL, hyper)
    backbone = PlainBackbone2d(
        "global_filter",
        d_model=o.embed_dim,
        depth=o.depth,
        mixer_options={"size": o.img_size // o.patch_size},
        image_size=o.img_size,
        patch_size=o.patch_size,
        in_channels=o.in_chans,
        mlp_ratio=float(o.mlp_ratio),
        block_options=BLOCK_OPTIONS,
        initialisation="linear",
        drop_path=[o.drop_path_rate] * o.depth if o.uniform_drop else float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original; SpectFormer's blocks may hold attention instead."""
    o, moved = read(MODEL, hyper), {"stem.proj": "patch_embed.proj", "norm": "norm"}
    positions = weights.take("pos_embed")[0]
    converted = {"backbone.position_embedding": positions.unflatten(0, (math.isqrt(len(positions)), -1))}
    for index in range(o.depth):
        block = f"blocks.{index}"
        moved |= {f"{block}.mixer_norm": f"{block}.norm1", f"{block}.mlp_norm": f"{block}.norm2"}
        moved |= {f"{block}.mlp.up": f"{block}.mlp.fc1", f"{block}.mlp.down": f"{block}.mlp.fc2"}
        if f"{block}.attn.qkv.weight" in weights:
            moved[f"{block}.mixer.mixers.0.qkv_proj"] = f"{block}.attn.qkv"
            moved[f"{block}.mixer.mixers.0.o_proj"] = f"{block}.attn.proj"
        else:
            converted[f"backbone.{block}.mixer.weight"] = weights.take(f"{block}.filter.complex_weight")
    names = {f"backbone.{name}": source for name, source in moved.items()}
    return converted | take_pairs(weights, names | ({"head": "head"} if o.num_classes else {}))


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    if "pos_embed" not in weights or "blocks.0.filter.complex_weight" not in weights:
        return {}
    patch = weights.peek("patch_embed.proj.weight")
    return {
        "depth": count_parts(weights, "blocks.{}.norm1.weight"),
        "embed_dim": len(patch), "in_chans": patch.shape[1], "patch_size": patch.shape[-1],
        "img_size": math.isqrt(weights.peek("pos_embed").shape[1]) * patch.shape[-1],
        "mlp_ratio": len(weights.peek("blocks.0.mlp.fc1.weight")) / len(patch),
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
    }  # fmt: skip


def _afno_builder(original: str) -> Any:
    def build_afno(**hyper: Any) -> AFNO2d:
        """The mixer with the options of the original."""
        o = options(original, hyper, AFNO_DEFAULTS, ("length", "map"))
        return AFNO2d(
            o.hidden_size,
            num_blocks=o.num_blocks,
            expand=o.hidden_size_factor,
            threshold=float(o.sparsity_threshold),
            fraction=float(o.hard_thresholding_fraction),
        )

    return build_afno


def convert_afno(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    return {name: weights.take(source) for name, source in AFNO_WEIGHTS.items()}


def read(original: str, hyper: Mapping[str, Any]) -> Any:
    """The options of a classifier of GFNet, or of SpectFormer, whose constructor is the same.

    Raises:
        ValueError: an option that is not supported.
    """
    o = options(original, hyper, DEFAULTS, ("drop_rate", "norm_layer", "dropcls"))
    require_names(original, hyper, norm_layer=("layernorm(eps=1e-06)",))
    if o.representation_size is not None:
        got, remedy = f"representation_size={o.representation_size}", "the original fails with another"
        raise argument_error(f"from_original({original!r})", got, "None", remedy)
    return o


add_importer(
    FILTER,
    build=build_filter,
    convert=convert_filter,
    infer=lambda weights: {"frequencies": weights.peek("complex_weight").shape[1]},
)
add_importer(MODEL, build=build, convert=convert, infer=infer)
for _original in AFNO:
    add_importer(_original, build=_afno_builder(_original), convert=convert_afno)
