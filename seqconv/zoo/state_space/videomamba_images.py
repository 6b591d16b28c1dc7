"""VideoMamba's models of images (Li et al. 2024, arXiv 2403.06977): Vim's block, the class token first.

Sizes: ``videomamba/image_sm/models/videomamba.py`` of OpenGVLab/VideoMamba at f3427e42; parameters and accuracy:
``videomamba/image_sm/MODEL_ZOO.md`` there. Middle and base were trained with self-distillation; those of 448 and 576
pixels were fine-tuned from 224. The videos' backbone begins with the same blocks.
"""

from collections.abc import Mapping
from typing import Any

from ...vision.backbones.plain import PlainBackbone
from ..registry import register_model
from .videomamba import SIZES

ORIGINAL = "OpenGVLab/VideoMamba:image_sm.VisionMamba"
IMAGES: Mapping[str, Any] = {"source": "https://github.com/OpenGVLab/VideoMamba", "original": ORIGINAL}


def _videomamba(size: str, image_size: int = 224, **options: Any) -> PlainBackbone:
    d_model, depth = SIZES[size]
    own: dict[str, Any] = {
        "d_model": d_model,
        "depth": depth,
        "mixer_options": {"halve": False},
        "cls_position": "first",
        "initialisation": "scan",
    }
    return PlainBackbone("vim", image_size=image_size, **own, **options)


@register_model(top1=76.9, millions=7, **IMAGES)
def videomamba_image_tiny(**options: Any) -> PlainBackbone:
    """192 wide, 24 layers."""
    return _videomamba("tiny", **options)


@register_model(top1=79.3, millions=7, **IMAGES, image_size=448)
def videomamba_image_tiny_448(**options: Any) -> PlainBackbone:
    """192 wide, 24 layers, 448 pixels."""
    return _videomamba("tiny", **{"image_size": 448, **options})


@register_model(top1=79.6, millions=7, **IMAGES, image_size=576)
def videomamba_image_tiny_576(**options: Any) -> PlainBackbone:
    """192 wide, 24 layers, 576 pixels."""
    return _videomamba("tiny", **{"image_size": 576, **options})


@register_model(top1=81.2, millions=26, **IMAGES)
def videomamba_image_small(**options: Any) -> PlainBackbone:
    """384 wide, 24 layers."""
    return _videomamba("small", **options)


@register_model(top1=83.2, millions=26, **IMAGES, image_size=448)
def videomamba_image_small_448(**options: Any) -> PlainBackbone:
    """384 wide, 24 layers, 448 pixels."""
    return _videomamba("small", **{"image_size": 448, **options})


@register_model(top1=83.5, millions=26, **IMAGES, image_size=576)
def videomamba_image_small_576(**options: Any) -> PlainBackbone:
    """384 wide, 24 layers, 576 pixels."""
    return _videomamba("small", **{"image_size": 576, **options})


@register_model(top1=82.8, millions=74, **IMAGES)
def videomamba_image_middle(**options: Any) -> PlainBackbone:
    """576 wide, 32 layers."""
    return _videomamba("middle", **options)


@register_model(top1=83.8, millions=75, **IMAGES, image_size=448)
def videomamba_image_middle_448(**options: Any) -> PlainBackbone:
    """576 wide, 32 layers, 448 pixels."""
    return _videomamba("middle", **{"image_size": 448, **options})


@register_model(top1=84.0, millions=75, **IMAGES, image_size=576)
def videomamba_image_middle_576(**options: Any) -> PlainBackbone:
    """576 wide, 32 layers, 576 pixels."""
    return _videomamba("middle", **{"image_size": 576, **options})


@register_model(top1=82.7, millions=98, **IMAGES)
def videomamba_image_base(**options: Any) -> PlainBackbone:
    """768 wide, 24 layers."""
    return _videomamba("base", **options)
