"""VideoMamba on other data sets than Kinetics: Something-Something v2, Breakfast and COIN.

Figures: ``videomamba/video_sm/MODEL_ZOO.md`` of OpenGVLab/VideoMamba at f3427e42, Something-Something after ImageNet-1K
with 4 clips of 3 crops, Breakfast (4 of 3) and COIN (10 of 3) after Kinetics-400; classes:
``videomamba/video_sm/datasets/build.py`` there.
"""

from collections.abc import Mapping
from typing import Any

from ...vision.video.backbone import VideoBackbone
from ..registry import register_model
from .videomamba import VIDEOS, videomamba

SOMETHING: Mapping[str, Any] = {"measure": "top-1 on Something-Something v2", "num_classes": 174, **VIDEOS}
BREAKFAST: Mapping[str, Any] = {"measure": "top-1 on Breakfast", "num_classes": 10, **VIDEOS}
COIN: Mapping[str, Any] = {"measure": "top-1 on COIN", "num_classes": 180, **VIDEOS}


@register_model(top1=65.1, millions=7, **SOMETHING)
def videomamba_tiny_ssv2(**options: Any) -> VideoBackbone:
    """8 frames."""
    return videomamba("tiny", 8, options)


@register_model(top1=66.0, millions=7, **SOMETHING)
def videomamba_tiny_ssv2_f16(**options: Any) -> VideoBackbone:
    """16 frames."""
    return videomamba("tiny", 16, options)


@register_model(top1=66.2, millions=7, **SOMETHING, image_size=288)
def videomamba_tiny_ssv2_f16_288(**options: Any) -> VideoBackbone:
    """16 frames of 288 pixels."""
    return videomamba("tiny", 16, options, pixels=288)


@register_model(top1=66.6, millions=26, **SOMETHING)
def videomamba_small_ssv2(**options: Any) -> VideoBackbone:
    """8 frames."""
    return videomamba("small", 8, options)


@register_model(top1=67.7, millions=26, **SOMETHING)
def videomamba_small_ssv2_f16(**options: Any) -> VideoBackbone:
    """16 frames."""
    return videomamba("small", 16, options)


@register_model(top1=68.1, millions=26, **SOMETHING, image_size=288)
def videomamba_small_ssv2_f16_288(**options: Any) -> VideoBackbone:
    """16 frames of 288 pixels."""
    return videomamba("small", 16, options, pixels=288)


@register_model(top1=67.3, millions=74, **SOMETHING)
def videomamba_middle_ssv2(**options: Any) -> VideoBackbone:
    """8 frames; 70.2 after masked pretraining."""
    return videomamba("middle", 8, options)


@register_model(top1=68.3, millions=74, **SOMETHING)
def videomamba_middle_ssv2_f16(**options: Any) -> VideoBackbone:
    """16 frames; 71.0 after masked pretraining."""
    return videomamba("middle", 16, options)


@register_model(top1=68.4, millions=74, **SOMETHING, image_size=288)
def videomamba_middle_ssv2_f16_288(**options: Any) -> VideoBackbone:
    """16 frames of 288 pixels; 71.4 after masked pretraining."""
    return videomamba("middle", 16, options, pixels=288)


@register_model(top1=94.3, millions=7, **BREAKFAST)
def videomamba_tiny_breakfast_f32(**options: Any) -> VideoBackbone:
    """32 frames."""
    return videomamba("tiny", 32, options)


@register_model(top1=94.3, millions=7, **BREAKFAST)
def videomamba_tiny_breakfast_f64(**options: Any) -> VideoBackbone:
    """64 frames."""
    return videomamba("tiny", 64, options)


@register_model(top1=95.3, millions=26, **BREAKFAST)
def videomamba_small_breakfast_f32(**options: Any) -> VideoBackbone:
    """32 frames."""
    return videomamba("small", 32, options)


@register_model(top1=97.4, millions=26, **BREAKFAST)
def videomamba_small_breakfast_f64(**options: Any) -> VideoBackbone:
    """64 frames."""
    return videomamba("small", 64, options)


@register_model(top1=94.8, millions=74, **BREAKFAST)
def videomamba_middle_breakfast_f32(**options: Any) -> VideoBackbone:
    """32 frames; 97.9 after masked pretraining."""
    return videomamba("middle", 32, options)


@register_model(top1=95.8, millions=74, **BREAKFAST)
def videomamba_middle_breakfast_f64(**options: Any) -> VideoBackbone:
    """64 frames; 96.9 after masked pretraining."""
    return videomamba("middle", 64, options)


@register_model(top1=86.2, millions=7, **COIN)
def videomamba_tiny_coin_f32(**options: Any) -> VideoBackbone:
    """32 frames."""
    return videomamba("tiny", 32, options)


@register_model(top1=87.0, millions=7, **COIN)
def videomamba_tiny_coin_f64(**options: Any) -> VideoBackbone:
    """64 frames."""
    return videomamba("tiny", 64, options)


@register_model(top1=88.4, millions=26, **COIN)
def videomamba_small_coin_f32(**options: Any) -> VideoBackbone:
    """32 frames."""
    return videomamba("small", 32, options)


@register_model(top1=88.7, millions=26, **COIN)
def videomamba_small_coin_f64(**options: Any) -> VideoBackbone:
    """64 frames."""
    return videomamba("small", 64, options)


@register_model(top1=88.3, millions=74, **COIN)
def videomamba_middle_coin_f32(**options: Any) -> VideoBackbone:
    """32 frames; 89.6 after masked pretraining."""
    return videomamba("middle", 32, options)


@register_model(top1=89.5, millions=74, **COIN)
def videomamba_middle_coin_f64(**options: Any) -> VideoBackbone:
    """64 frames; 90.4 after masked pretraining."""
    return videomamba("middle", 64, options)
