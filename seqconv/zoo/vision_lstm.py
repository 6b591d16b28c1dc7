"""Vision-LSTM (Alkin et al. 2024, arXiv 2406.04303): mLSTM blocks in alternating directions, of both versions.

The first version (``vil_v1``) convolves along the scan instead of over the image, without biases, and its classifier
reads the mean of the first and the last cell. ``_stride8`` was trained with patches that overlap by half; its positions
are those of patches next to each other, resized. Sizes and figures: ``hubconf.py`` and README.md of NX-AI/vision-lstm
at 381ba95c, where the second version counts pairs of blocks; parameters of the first version are counted.
"""

from collections.abc import Mapping
from typing import Any

from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

ORIGINAL, FIRST = "NX-AI/vision-lstm:VisionLSTM2", "NX-AI/vision-lstm:VisionLSTM"
SOURCE = "https://github.com/NX-AI/vision-lstm"
DEPTH = 24
DIRECTIONS = ({"order": "row"}, {"order": "row_reversed"})
NORM_EPS, LEGACY_EPS = 1e-6, 1e-5
FIRST_MIXER: Mapping[str, Any] = {"convolution": "scan", "d_conv": 4, "bias": False}
INITIAL: Mapping[str, Any] = {
    "stem_options": {"xavier": True},
    "head_init_std": 2e-5,
    "drop_path_schedule": "constant",
}
"""Initial values, and the same rate of drop path in all blocks."""
OVERLAP: Mapping[str, Any] = {"stride": 8, "image_size": 16 + 13 * 8}
"""As many positions, 14 by 14, as patches of 16 pixels next to each other have in images of 224 by 224 pixels."""


def _vil(d_model: int, **options: Any) -> PlainBackbone2d:
    return PlainBackbone2d(
        "vision_lstm",
        d_model=d_model,
        depth=DEPTH,
        layer_options=DIRECTIONS,
        **INITIAL,
        pooling="ends",
        final_norm_eps=NORM_EPS,
        pooled_norm=True,
        pooled_norm_eps=LEGACY_EPS,
        **options,
    )


def _vil_v1(d_model: int, depth: int, **options: Any) -> PlainBackbone2d:
    return PlainBackbone2d(
        "vision_lstm",
        d_model=d_model,
        depth=depth,
        mixer_options=FIRST_MIXER,
        layer_options=DIRECTIONS,
        **INITIAL,
        pooling="mean_of_ends",
        final_norm_eps=LEGACY_EPS,
        pooled_norm=True,
        pooled_norm_eps=NORM_EPS,
        **options,
    )


@register_model(top1=78.3, millions=6, source=SOURCE, original=ORIGINAL)
def vil_tiny(**options: Any) -> PlainBackbone2d:
    """192 wide."""
    return _vil(192, **options)


@register_model(top1=81.5, millions=23, source=SOURCE, original=ORIGINAL)
def vil_small(**options: Any) -> PlainBackbone2d:
    """384 wide."""
    return _vil(384, **options)


@register_model(top1=82.4, millions=89, source=SOURCE, original=ORIGINAL)
def vil_base(**options: Any) -> PlainBackbone2d:
    """768 wide."""
    return _vil(768, **options)


@register_model(top1=77.3, millions=6.1, source=SOURCE, original=FIRST)
def vil_v1_tiny(**options: Any) -> PlainBackbone2d:
    """192 wide, 24 blocks."""
    return _vil_v1(192, DEPTH, **options)


@register_model(top1=78.1, millions=7.3, source=SOURCE, original=FIRST)
def vil_v1_tiny_plus(**options: Any) -> PlainBackbone2d:
    """192 wide, 29 blocks."""
    return _vil_v1(192, 29, **options)


@register_model(top1=80.0, millions=7.3, source=SOURCE, original=FIRST)
def vil_v1_tiny_plus_stride8(**options: Any) -> PlainBackbone2d:
    """192 wide, 29 blocks, a patch at every eighth pixel."""
    return vil_v1_tiny_plus(**{**OVERLAP, **options})


@register_model(top1=80.7, millions=22.8, source=SOURCE, original=FIRST)
def vil_v1_small(**options: Any) -> PlainBackbone2d:
    """384 wide, 24 blocks."""
    return _vil_v1(384, DEPTH, **options)


@register_model(top1=80.9, millions=24.6, source=SOURCE, original=FIRST)
def vil_v1_small_plus(**options: Any) -> PlainBackbone2d:
    """384 wide, 26 blocks."""
    return _vil_v1(384, 26, **options)


@register_model(top1=82.2, millions=24.6, source=SOURCE, original=FIRST)
def vil_v1_small_plus_stride8(**options: Any) -> PlainBackbone2d:
    """384 wide, 26 blocks, a patch at every eighth pixel."""
    return vil_v1_small_plus(**{**OVERLAP, **options})


@register_model(top1=81.6, millions=88.1, source=SOURCE, original=FIRST)
def vil_v1_base(**options: Any) -> PlainBackbone2d:
    """768 wide, 24 blocks."""
    return _vil_v1(768, DEPTH, **options)


@register_model(top1=82.7, millions=88.1, source=SOURCE, original=FIRST)
def vil_v1_base_stride8(**options: Any) -> PlainBackbone2d:
    """768 wide, 24 blocks, a patch at every eighth pixel."""
    return vil_v1_base(**{**OVERLAP, **options})
