"""GFNet (Rao et al. 2021, arXiv 2107.00645): filters in the spectrum of the patches.

Sizes and figures: ``gfnet.py`` and README.md of raoyongming/GFNet at 2de48b62.
"""

from typing import Any

from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

ORIGINAL = "raoyongming/GFNet:GFNet"
SOURCE = "https://github.com/raoyongming/GFNet"
PATCH_SIZE = 16


def _gfnet(d_model: int, depth: int, *, image_size: int = 224, **options: Any) -> PlainBackbone2d:
    return PlainBackbone2d(
        "global_filter",
        d_model=d_model,
        depth=depth,
        mixer_options={"size": image_size // PATCH_SIZE},
        image_size=image_size,
        patch_size=PATCH_SIZE,
        mlp_ratio=4.0,
        block_options={"norm_eps": 1e-6, "single_residual": True},
        **options,
    )


@register_model(top1=74.6, millions=7, source=SOURCE, original=ORIGINAL)
def gfnet_tiny(**options: Any) -> PlainBackbone2d:
    """256 wide, 12 layers."""
    return _gfnet(256, 12, **options)


@register_model(top1=78.6, millions=16, source=SOURCE, original=ORIGINAL)
def gfnet_xsmall(**options: Any) -> PlainBackbone2d:
    """384 wide, 12 layers."""
    return _gfnet(384, 12, **options)


@register_model(top1=80.0, millions=25, source=SOURCE, original=ORIGINAL)
def gfnet_small(**options: Any) -> PlainBackbone2d:
    """384 wide, 19 layers."""
    return _gfnet(384, 19, **options)


@register_model(top1=80.7, millions=43, source=SOURCE, original=ORIGINAL)
def gfnet_base(**options: Any) -> PlainBackbone2d:
    """512 wide, 19 layers."""
    return _gfnet(512, 19, **options)
