"""SLAB in the stages of PVT and PVTv2 (Guo et al. 2024, arXiv 2405.11582): its attention in some stages or all.

Batch norms take the place of layer norms in the course of training, also in those that have the attention of PVT alone
(``…_prepbn``). Sizes: ``classification/models/{slab_pvt,slab_pvt_v2}.py``, ``classification/config.py`` and ``cfgs`` of
xinghaochen/SLAB at f58db00b, accuracies: its README.md; of models without one there the configuration is published
alone, of PVTv2 the sizes. Numbers of parameters, which are not published, are counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model
from .slab import NORM_EPS, SOURCE
from .slab_stages import LINEAR, PATCH_SIZE, PREP_STEPS, prep_blocks, prep_norm, stage_sizes

PVT, PVT_V2 = "xinghaochen/SLAB:PyramidVisionTransformer", "xinghaochen/SLAB:PyramidVisionTransformerV2"
PVT_DIMS, PVT_HEADS, PVT_RATIOS, REDUCTIONS = (64, 128, 320, 512), (1, 2, 5, 8), (8.0, 8.0, 4.0, 4.0), (8, 4, 2, 1)
PVT_V2_DEPTHS = ((2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 18, 3), (3, 8, 27, 3), (3, 6, 40, 3))
"""Of b0 to b5."""


def pvt_stages(
    depths: Sequence[int],
    kinds: str,
    *,
    dims: Sequence[int] = PVT_DIMS,
    num_heads: Sequence[int] = PVT_HEADS,
    mlp_ratios: Sequence[float] = PVT_RATIOS,
    reductions: Sequence[int] = REDUCTIONS,
    image_size: int = 224,
    patch_size: int = PATCH_SIZE,
    d_conv: int = 5,
    qkv_bias: bool = True,
    **options: Any,
) -> HierarchicalBackbone:
    """A PVT of the attention ``kinds`` of each stage, for images of ``image_size``."""
    norm, sizes = prep_norm(PREP_STEPS, 1e-6), stage_sizes(image_size, patch_size, len(depths))
    inner = {"norm": norm["norm"], "norm_options": norm["norm_options"] | {"eps": NORM_EPS}}
    parts = zip(kinds, num_heads, sizes, reductions, strict=True)
    return HierarchicalBackbone(
        ["slab" if kind == LINEAR else "reduced_attention" for kind in kinds],
        dims=dims,
        depths=depths,
        stage_options=[_pvt_mixer(*part, inner, d_conv=d_conv, qkv_bias=qkv_bias) for part in parts],
        patch_size=patch_size,
        stem_options=norm,
        downsampling="conv2",
        downsampling_options=norm,
        mlp_ratio=list(mlp_ratios),
        block_options=prep_blocks(PREP_STEPS, 1e-6),
        position_sizes=sizes,
        final_norm="none",
        **options,
    )


def _pvt_mixer(
    kind: str, num_heads: int, size: int, reduction: int, inner: Mapping[str, Any], *, d_conv: int, qkv_bias: bool
) -> dict[str, Any]:
    """Options of the mixer of a stage; ``inner`` those of the norm of a smaller image."""
    own = {"size": size, "d_conv": d_conv} if kind == LINEAR else {"reduction": reduction, **inner}
    return {"num_heads": num_heads, "qkv_bias": qkv_bias, **own}


def pvt_v2_stages(
    depths: Sequence[int],
    kinds: str = "LLLL",
    *,
    dims: Sequence[int] = PVT_DIMS,
    num_heads: Sequence[int] = PVT_HEADS,
    mlp_ratios: Sequence[float] = PVT_RATIOS,
    reductions: Sequence[int] = REDUCTIONS,
    image_size: int = 224,
    d_conv: int = 5,
    qkv_bias: bool = True,
    **options: Any,
) -> HierarchicalBackbone:
    """A PVTv2 of the attention ``kinds`` of each stage, for images of ``image_size``."""
    norm = prep_norm(PREP_STEPS, 1e-6)
    before = {f"input_{name}": value for name, value in norm.items() if name != "eps"} | {"input_norm_eps": NORM_EPS}
    parts = zip(kinds, num_heads, stage_sizes(image_size, PATCH_SIZE, len(depths)), reductions, strict=True)
    return HierarchicalBackbone(
        ["slab" if kind == LINEAR else "reduced_attention" for kind in kinds],
        dims=dims,
        depths=depths,
        stage_options=[_pvt_mixer(*part, {}, d_conv=d_conv, qkv_bias=qkv_bias) for part in parts],
        stem="overlap",
        stem_options={**norm, "padding": 3},
        downsampling="conv",
        downsampling_options=norm | before,
        mlp_ratio=list(mlp_ratios),
        block_options={**prep_blocks(PREP_STEPS, 1e-6), "mlp": "conv_alone"},
        final_norm="prep_batch",
        final_norm_eps=NORM_EPS,
        final_norm_options=norm["norm_options"],
        initialisation="fan_out",
        **options,
    )


@register_model(top1=76.5, millions=12, source=SOURCE, original=PVT)
def slab_pvt_tiny(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 8 blocks."""
    return pvt_stages((2, 2, 2, 2), "LLLL", **options)


@register_model(top1=None, millions=22, source=SOURCE, original=PVT)
def slab_pvt_small(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 16 blocks; ``slab_pvt_s.yaml``, without published weights or accuracy."""
    return pvt_stages((3, 4, 6, 3), "LLLL", **options)


@register_model(top1=None, millions=38, source=SOURCE, original=PVT)
def slab_pvt_medium(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 28 blocks; ``slab_pvt_m.yaml``, without published weights or accuracy."""
    return pvt_stages((3, 4, 18, 3), "LLLL", **options)


@register_model(top1=76.0, millions=13, source=SOURCE, original=PVT)
def pvt_tiny_prepbn(**options: Any) -> HierarchicalBackbone:
    """PVT's own attention: 64 to 512 wide, 8 blocks."""
    return pvt_stages((2, 2, 2, 2), "SSSS", **options)


@register_model(top1=80.1, millions=24, source=SOURCE, original=PVT)
def pvt_small_prepbn(**options: Any) -> HierarchicalBackbone:
    """PVT's own attention: 64 to 512 wide, 16 blocks."""
    return pvt_stages((3, 4, 6, 3), "SSSS", **options)


@register_model(top1=81.7, millions=44, source=SOURCE, original=PVT)
def pvt_medium_prepbn(**options: Any) -> HierarchicalBackbone:
    """PVT's own attention: 64 to 512 wide, 28 blocks."""
    return pvt_stages((3, 4, 18, 3), "SSSS", **options)


@register_model(top1=None, millions=3.6, source=SOURCE, original=PVT_V2)
def slab_pvt_v2_b0(**options: Any) -> HierarchicalBackbone:
    """32 to 256 wide, 8 blocks; in ``slab_pvt_v2.py``, without published weights or accuracy."""
    return pvt_v2_stages(PVT_V2_DEPTHS[0], **{"dims": (32, 64, 160, 256)} | options)


@register_model(top1=None, millions=12.9, source=SOURCE, original=PVT_V2)
def slab_pvt_v2_b1(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 8 blocks; in ``slab_pvt_v2.py``, without published weights or accuracy."""
    return pvt_v2_stages(PVT_V2_DEPTHS[1], **options)


@register_model(top1=None, millions=22.6, source=SOURCE, original=PVT_V2)
def slab_pvt_v2_b2(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 16 blocks; in ``slab_pvt_v2.py``, without published weights or accuracy."""
    return pvt_v2_stages(PVT_V2_DEPTHS[2], **options)


@register_model(top1=None, millions=38.3, source=SOURCE, original=PVT_V2)
def slab_pvt_v2_b3(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 28 blocks; in ``slab_pvt_v2.py``, without published weights or accuracy."""
    return pvt_v2_stages(PVT_V2_DEPTHS[3], **options)


@register_model(top1=None, millions=51.9, source=SOURCE, original=PVT_V2)
def slab_pvt_v2_b4(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 41 blocks; in ``slab_pvt_v2.py``, without published weights or accuracy."""
    return pvt_v2_stages(PVT_V2_DEPTHS[4], **options)


@register_model(top1=None, millions=67.1, source=SOURCE, original=PVT_V2)
def slab_pvt_v2_b5(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 52 blocks, narrower MLPs; in ``slab_pvt_v2.py``, without published weights or accuracy."""
    return pvt_v2_stages(PVT_V2_DEPTHS[5], **{"mlp_ratios": (4.0, 4.0, 4.0, 4.0)} | options)
