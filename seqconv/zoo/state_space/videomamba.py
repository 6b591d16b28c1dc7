"""VideoMamba (Li et al. 2024, arXiv 2403.06977): the bidirectional block on patches of 16 pixels in every frame.

Sizes: ``videomamba/video_sm/models/videomamba.py`` of OpenGVLab/VideoMamba at f3427e42; accuracy on Kinetics-400 with 4
clips of 3 crops, after ImageNet-1K: ``videomamba/video_sm/MODEL_ZOO.md`` there, parameters (of the same models for
images): ``videomamba/image_sm/MODEL_ZOO.md``. Names without frames (``_f16``) and pixels (``_384``) are of 8 frames of
224 pixels. Other data sets: :mod:`~seqconv.zoo.state_space.videomamba_tasks`.
"""

from collections.abc import Mapping
from typing import Any

from ...vision.video.backbone import VideoBackbone, VideoClassifier
from ..registry import register_model

VIDEOS: Mapping[str, Any] = {
    "source": "https://github.com/OpenGVLab/VideoMamba",
    "original": "OpenGVLab/VideoMamba:VisionMamba",
    "classifier": VideoClassifier,
}
KINETICS: Mapping[str, Any] = {"measure": "top-1 on Kinetics-400", "num_classes": 400, **VIDEOS}
SIZES: Mapping[str, tuple[int, int]] = {"tiny": (192, 24), "small": (384, 24), "middle": (576, 32), "base": (768, 24)}
"""Width and layers."""


def videomamba(size: str, frames: int, given: Mapping[str, Any], *, pixels: int = 224) -> VideoBackbone:
    """A VideoMamba for so many frames and pixels, if the options given do not change them."""
    d_model, depth = SIZES[size]
    options = {"num_frames": frames, "image_size": pixels, **given}
    return VideoBackbone("vim", d_model=d_model, depth=depth, mixer_options={"halve": False}, **options)


@register_model(top1=76.9, millions=7, **KINETICS)
def videomamba_tiny(**options: Any) -> VideoBackbone:
    """192 wide, 24 layers."""
    return videomamba("tiny", 8, options)


@register_model(top1=78.1, millions=7, **KINETICS)
def videomamba_tiny_f16(**options: Any) -> VideoBackbone:
    """16 frames."""
    return videomamba("tiny", 16, options)


@register_model(top1=78.8, millions=7, **KINETICS)
def videomamba_tiny_f32(**options: Any) -> VideoBackbone:
    """32 frames."""
    return videomamba("tiny", 32, options)


@register_model(top1=79.6, millions=7, **KINETICS)
def videomamba_tiny_f64(**options: Any) -> VideoBackbone:
    """64 frames."""
    return videomamba("tiny", 64, options)


@register_model(top1=80.3, millions=7, **KINETICS, image_size=384)
def videomamba_tiny_f64_384(**options: Any) -> VideoBackbone:
    """64 frames of 384 pixels."""
    return videomamba("tiny", 64, options, pixels=384)


@register_model(top1=79.3, millions=26, **KINETICS)
def videomamba_small(**options: Any) -> VideoBackbone:
    """384 wide, 24 layers."""
    return videomamba("small", 8, options)


@register_model(top1=80.8, millions=26, **KINETICS)
def videomamba_small_f16(**options: Any) -> VideoBackbone:
    """16 frames."""
    return videomamba("small", 16, options)


@register_model(top1=81.5, millions=26, **KINETICS)
def videomamba_small_f32(**options: Any) -> VideoBackbone:
    """32 frames."""
    return videomamba("small", 32, options)


@register_model(top1=81.8, millions=26, **KINETICS)
def videomamba_small_f64(**options: Any) -> VideoBackbone:
    """64 frames."""
    return videomamba("small", 64, options)


@register_model(top1=82.7, millions=26, **KINETICS, image_size=384)
def videomamba_small_f64_384(**options: Any) -> VideoBackbone:
    """64 frames of 384 pixels."""
    return videomamba("small", 64, options, pixels=384)


@register_model(top1=80.6, millions=74, **KINETICS)
def videomamba_middle(**options: Any) -> VideoBackbone:
    """576 wide, 32 layers; 82.0 after masked pretraining."""
    return videomamba("middle", 8, options)


@register_model(top1=81.9, millions=74, **KINETICS)
def videomamba_middle_f16(**options: Any) -> VideoBackbone:
    """16 frames; 83.4 after masked pretraining."""
    return videomamba("middle", 16, options)


@register_model(top1=82.4, millions=74, **KINETICS)
def videomamba_middle_f32(**options: Any) -> VideoBackbone:
    """32 frames; 83.9 after masked pretraining."""
    return videomamba("middle", 32, options)


@register_model(top1=82.8, millions=74, **KINETICS)
def videomamba_middle_f64(**options: Any) -> VideoBackbone:
    """64 frames; 84.3 after masked pretraining."""
    return videomamba("middle", 64, options)


@register_model(top1=83.3, millions=74, **KINETICS, image_size=384)
def videomamba_middle_f64_384(**options: Any) -> VideoBackbone:
    """64 frames of 384 pixels; 85.0 after masked pretraining."""
    return videomamba("middle", 64, options, pixels=384)
