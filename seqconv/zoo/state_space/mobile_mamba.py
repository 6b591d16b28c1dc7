"""MobileMamba (He et al. 2024, arXiv 2411.15941): scans, wavelets and convolutions of different channels.

Sizes and figures: ``model/mobilemamba/mobilemamba.py`` and README.md of lewandofskee/MobileMamba at 0980f48a, trained
without distillation, at 192 (T), 224 (S6), 256 (B1), 384 (B2) and 512 (B4) pixels.
"""

from collections.abc import Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model

ORIGINAL = "lewandofskee/MobileMamba:MobileMamba"
SOURCE = "https://github.com/lewandofskee/MobileMamba"
PARTS = ((0.8, 0.2, 7), (0.7, 0.2, 5), (0.6, 0.3, 3))
"""Of each stage: the parts of the channels that are scanned and convolved, the size of the convolutions."""


def _mobile(dims: Sequence[int], depths: Sequence[int] = (1, 2, 2), **options: Any) -> HierarchicalBackbone:
    return HierarchicalBackbone(
        "mobile_mamba",
        dims=dims,
        depths=depths,
        stage_options=[{"global_ratio": a, "local_ratio": b, "d_conv": size} for a, b, size in PARTS],
        stage_blocks=["mobile"] * len(PARTS),
        patch_size=16,
        stem="mobile",
        downsampling="mobile",
        final_norm="batch",
        initialisation="none",
        **options,
    )


@register_model(top1=71.5, millions=8.8, source=SOURCE, original=ORIGINAL, image_size=192)
def mobile_mamba_t2(**options: Any) -> HierarchicalBackbone:
    """144 to 368 wide."""
    return _mobile((144, 272, 368), **options)


@register_model(top1=76.1, millions=14.2, source=SOURCE, original=ORIGINAL, image_size=192)
def mobile_mamba_t4(**options: Any) -> HierarchicalBackbone:
    """176 to 448 wide."""
    return _mobile((176, 368, 448), **options)


@register_model(top1=78.0, millions=15.0, source=SOURCE, original=ORIGINAL)
def mobile_mamba_s6(**options: Any) -> HierarchicalBackbone:
    """192 to 448 wide."""
    return _mobile((192, 384, 448), **options)


@register_model(top1=79.9, millions=17.1, source=SOURCE, original=ORIGINAL, image_size=256)
def mobile_mamba_b1(**options: Any) -> HierarchicalBackbone:
    """200 to 448 wide, 7 blocks."""
    return _mobile((200, 376, 448), (2, 3, 2), **options)


@register_model(
    top1=81.6, millions=17.1, source=SOURCE, original=ORIGINAL, measure="top-1 at 384 pixels", image_size=384
)
def mobile_mamba_b2(**options: Any) -> HierarchicalBackbone:
    """B1 for images of 384 by 384 pixels."""
    return mobile_mamba_b1(**options)


@register_model(
    top1=82.5, millions=17.1, source=SOURCE, original=ORIGINAL, measure="top-1 at 512 pixels", image_size=512
)
def mobile_mamba_b4(**options: Any) -> HierarchicalBackbone:
    """B1 for images of 512 by 512 pixels."""
    return mobile_mamba_b1(**options)
