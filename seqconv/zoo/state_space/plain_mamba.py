"""PlainMamba (Yang et al. 2024, arXiv 2403.17695): selective scans along four snakes on patches of 16 pixels.

Sizes: ``plain_mamba.py`` of ChenhongyiYang/PlainMamba at 0975a1d0; figures: table 1 of the paper.
"""

from typing import Any

from ...vision.backbones.plain_2d import PlainBackbone2d
from ..registry import register_model

ORIGINAL = "ChenhongyiYang/PlainMamba:PlainMamba"
SOURCE = "https://arxiv.org/abs/2403.17695"


def _plain_mamba(d_model: int, depth: int, num_convs: int, **options: Any) -> PlainBackbone2d:
    return PlainBackbone2d(
        "plain_mamba",
        d_model=d_model,
        depth=depth,
        mixer_options={"selection": "raster"},
        stem="conv7",
        stem_options={"num_convs": num_convs},
        head_init_std=0.01,
        **options,
    )


@register_model(top1=77.9, millions=7, source=SOURCE, original=ORIGINAL)
def plain_mamba_l1(**options: Any) -> PlainBackbone2d:
    """192 wide, 24 layers, a depthwise convolution after the first."""
    return _plain_mamba(192, 24, 1, conv_layers=[0], **options)


@register_model(top1=81.6, millions=25, source=SOURCE, original=ORIGINAL)
def plain_mamba_l2(**options: Any) -> PlainBackbone2d:
    """384 wide, 24 layers."""
    return _plain_mamba(384, 24, 2, **options)


@register_model(top1=82.3, millions=50, source=SOURCE, original=ORIGINAL)
def plain_mamba_l3(**options: Any) -> PlainBackbone2d:
    """448 wide, 36 layers."""
    return _plain_mamba(448, 36, 2, **options)
