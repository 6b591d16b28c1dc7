"""ParCNetV2 (Xu et al. 2022, arXiv 2211.07157): convolutions about twice as long as the image.

Sizes and figures: ``models/parcnetv2.py`` and README.md of XuRuihan/ParCNetV2 at b9d85247.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..vision.backbones.hierarchical import HierarchicalBackbone
from .registry import register_model

ORIGINAL = "XuRuihan/ParCNetV2:ParCNetV2"
SOURCE = "https://github.com/XuRuihan/ParCNetV2"
GLOBAL_SIZES = (111, 55, 27, 13)
"""Taps for images of 224 by 224 pixels."""
STREAM_SCALES = (None, None, 1.0, 1.0)
NORM: Mapping[str, Any] = {"norm": "unit", "eps": 1e-6}
BLOCK_OPTIONS: Mapping[str, Any] = {"norm": "unit", "norm_eps": 1e-6, "mlp": "geglu", "mlp_down_bias": False}


def parcnetv2(
    dims: Sequence[int],
    depths: Sequence[int],
    *,
    global_sizes: Sequence[int] = GLOBAL_SIZES,
    stream_scales: Sequence[float | None] = STREAM_SCALES,
    mlp_ratio: float = 5.0,
    **options: Any,
) -> HierarchicalBackbone:
    """A ParCNetV2; ``mlp_ratio`` counts both halves of the gated networks."""
    return HierarchicalBackbone(
        "oversized",
        dims=dims,
        depths=depths,
        stage_options=[{"global_size": size} for size in global_sizes],
        stem="overlap",
        stem_options=NORM,
        downsampling="strided",
        downsampling_options={"size": 3, **NORM},
        mlp_ratio=mlp_ratio / 2,
        stream_scale=stream_scales,
        block_options=BLOCK_OPTIONS,
        final_norm="pooled_layer",
        final_norm_eps=1e-6,
        initialisation="all",
        **options,
    )


@register_model(top1=79.4, millions=7.4, source=SOURCE, original=ORIGINAL)
def parcnetv2_xt(**options: Any) -> HierarchicalBackbone:
    """48 to 320 wide, 17 blocks."""
    return parcnetv2((48, 96, 192, 320), (3, 3, 9, 2), **options)


@register_model(top1=83.5, millions=25, source=SOURCE, original=ORIGINAL)
def parcnetv2_tiny(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 21 blocks."""
    return parcnetv2((64, 128, 320, 512), (3, 3, 12, 3), **options)


@register_model(top1=84.3, millions=39, source=SOURCE, original=ORIGINAL)
def parcnetv2_small(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 39 blocks."""
    return parcnetv2((64, 128, 320, 512), (3, 9, 24, 3), **options)


@register_model(top1=84.6, millions=56, source=SOURCE, original=ORIGINAL)
def parcnetv2_base(**options: Any) -> HierarchicalBackbone:
    """96 to 576 wide, 39 blocks."""
    return parcnetv2((96, 192, 384, 576), (3, 9, 24, 3), **options)
