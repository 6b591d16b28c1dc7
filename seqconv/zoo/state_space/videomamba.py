"""VideoMamba (Li et al. 2024, arXiv 2403.06977): the bidirectional block on patches of 16 pixels in every frame.

Sizes: ``videomamba/video_sm/models/videomamba.py`` of OpenGVLab/VideoMamba at f3427e42; accuracy on Kinetics-400 with 8
frames of 224 pixels, 4 clips of 3 crops, after ImageNet-1K: ``videomamba/video_sm/MODEL_ZOO.md`` there, parameters (of
the same models for images): ``videomamba/image_sm/MODEL_ZOO.md``.
"""

from collections.abc import Mapping
from typing import Any

from ...vision.video.backbone import VideoBackbone, VideoClassifier
from ..registry import register_model

ORIGINAL = "OpenGVLab/VideoMamba:VisionMamba"
SOURCE = "https://github.com/OpenGVLab/VideoMamba"
KINETICS: Mapping[str, Any] = {
    "measure": "top-1 on Kinetics-400",
    "num_classes": 400,
    "classifier": VideoClassifier,
}


def _videomamba(d_model: int, depth: int, **options: Any) -> VideoBackbone:
    return VideoBackbone("vim", d_model=d_model, depth=depth, mixer_options={"halve": False}, **options)


@register_model(top1=76.9, millions=7, source=SOURCE, original=ORIGINAL, **KINETICS)
def videomamba_tiny(**options: Any) -> VideoBackbone:
    """192 wide, 24 layers."""
    return _videomamba(192, 24, **options)


@register_model(top1=79.3, millions=26, source=SOURCE, original=ORIGINAL, **KINETICS)
def videomamba_small(**options: Any) -> VideoBackbone:
    """384 wide, 24 layers."""
    return _videomamba(384, 24, **options)


@register_model(top1=80.6, millions=74, source=SOURCE, original=ORIGINAL, **KINETICS)
def videomamba_middle(**options: Any) -> VideoBackbone:
    """576 wide, 32 layers."""
    return _videomamba(576, 32, **options)
