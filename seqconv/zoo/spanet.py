"""SPANet (Yun et al. 2023, arXiv 2308.11568): frequencies weighed by their distance from zero.

Sizes and figures: ``image_classification/spanet.py`` and README.md of DoranLyong/SPANet-official at 886ad24d.
"""

from collections.abc import Sequence
from typing import Any

from ..vision.backbones.hierarchical import HierarchicalBackbone
from .registry import register_model

ORIGINAL = "DoranLyong/SPANet-official:SPANet"
SOURCE = "https://github.com/DoranLyong/SPANet-official"
RADII = (2.0, 2.0, 1.0, 1.0)
STREAM_SCALES = (None, None, 1.0, 1.0)
SMALL, BASE = (64, 128, 320, 512), (96, 192, 384, 768)


def spanet(
    dims: Sequence[int],
    depths: Sequence[int],
    *,
    radii: Sequence[float] = RADII,
    d_conv: int = 7,
    stream_scales: Sequence[float | None] = STREAM_SCALES,
    **options: Any,
) -> HierarchicalBackbone:
    """A SPANet of one radius of frequencies, and an initial factor of the stream, for each stage."""
    return HierarchicalBackbone(
        "spectral_pooling",
        dims=dims,
        depths=depths,
        mixer_options={"d_conv": d_conv},
        stage_options=[{"radius": radius} for radius in radii],
        stem="overlap",
        downsampling="strided",
        downsampling_options={"size": 3},
        stream_scale=stream_scales,
        block_options={"norm": "image"},
        final_norm="image",
        **options,
    )


@register_model(top1=83.1, millions=29, source=SOURCE, original=ORIGINAL)
def spanet_s(**options: Any) -> HierarchicalBackbone:
    """``spanet_small``."""
    return spanet(SMALL, (4, 4, 12, 4), **options)


@register_model(top1=83.5, millions=42, source=SOURCE, original=ORIGINAL)
def spanet_m(**options: Any) -> HierarchicalBackbone:
    """``spanet_medium``."""
    return spanet(SMALL, (6, 6, 18, 6), **options)


@register_model(top1=83.8, millions=55, source=SOURCE, original=ORIGINAL)
def spanet_mx(**options: Any) -> HierarchicalBackbone:
    """``spanet_mediumX``."""
    return spanet(SMALL, (8, 8, 24, 8), **options)


@register_model(top1=84.0, millions=76, source=SOURCE, original=ORIGINAL)
def spanet_b(**options: Any) -> HierarchicalBackbone:
    """``spanet_base``."""
    return spanet(BASE, (6, 6, 18, 6), **options)


@register_model(top1=84.4, millions=100, source=SOURCE, original=ORIGINAL)
def spanet_bx(**options: Any) -> HierarchicalBackbone:
    """``spanet_baseX``."""
    return spanet(BASE, (8, 8, 24, 8), **options)
