"""AFFNet (Huang et al. 2023, arXiv 2307.14008): filters in the spectrum that depend on the image.

Sizes: ``affnet/models/classification/config/affnet.py`` of microsoft/TokenMixers at 99dbe38c; figures: its README.md,
at 256 by 256 pixels. The configurations of the published weights are not in the repository: ``activation`` is its
default, and another one may be given.
"""

from collections.abc import Sequence
from typing import Any

from ..vision.backbones.aff import AFFBackbone
from .registry import register_model

ORIGINAL = "microsoft/TokenMixers:AffNet"
SOURCE = "https://github.com/microsoft/TokenMixers"
DEPTHS = (1, 3, 2, 4, 3)


def _affnet(dims: Sequence[int], expand: float, **options: Any) -> AFFBackbone:
    return AFFBackbone(dims=dims, depths=DEPTHS, expand=expand, **options)


@register_model(top1=73.0, millions=1.4, source=SOURCE, original=ORIGINAL, image_size=256)
def affnet_et(**options: Any) -> AFFBackbone:
    """``xx_small``."""
    return _affnet((32, 48, 64, 104, 144), 2.0, **options)


@register_model(top1=77.0, millions=2.6, source=SOURCE, original=ORIGINAL, image_size=256)
def affnet_t(**options: Any) -> AFFBackbone:
    """``x_small``."""
    return _affnet((32, 48, 96, 160, 192), 4.0, **options)


@register_model(top1=79.8, millions=5.5, source=SOURCE, original=ORIGINAL, image_size=256)
def affnet(**options: Any) -> AFFBackbone:
    """``small``."""
    return _affnet((32, 64, 128, 256, 320), 4.0, **options)
