"""XCiT (El-Nouby et al. 2021, arXiv 2106.09681): attention between channels, two layers of attention of a class token.

Patches of 16 or 8 pixels; a name is a size, a patch and a resolution. Sizes: ``xcit.py`` of facebookresearch/xcit at
82f5291f; parameters and accuracy of the named checkpoints: README.md there. At 384 pixels all were distilled.
"""

from collections.abc import Mapping
from typing import Any

from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

ORIGINAL = "facebookresearch/xcit:XCiT"
XCIT: Mapping[str, Any] = {"source": "https://github.com/facebookresearch/xcit", "original": ORIGINAL}
SIZES: Mapping[str, tuple[int, int, int]] = {
    "nano_12": (128, 12, 4),
    "tiny_12": (192, 12, 4),
    "tiny_24": (192, 24, 4),
    "small_12": (384, 12, 8),
    "small_24": (384, 24, 8),
    "medium_24": (512, 24, 8),
    "large_24": (768, 24, 16),
}
"""Width, blocks, heads."""
SMALL_SCALE_DEPTH = 24
"""Blocks from which on the factors of the layer scale begin small."""


def xcit(
    d_model: int,
    depth: int,
    num_heads: int,
    *,
    patch_size: int,
    mlp_ratio: float = 4.0,
    bias: bool = True,
    layer_scale: float = 1.0,
    positions: bool = True,
    class_layers: int = 2,
    norm_cells: bool = True,
    norm_eps: float = 1e-6,
    **options: Any,
) -> PlainBackbone2d:
    """An XCiT; ``norm_cells`` of its layers of class attention."""
    shared: dict[str, Any] = {"num_heads": num_heads, "bias": bias}
    parts: dict[str, Any] = {"mlp_ratio": mlp_ratio, "layer_scale": layer_scale}
    reading = {"depth": class_layers, "norm_cells": norm_cells, "norm_eps": norm_eps, **shared, **parts}
    return PlainBackbone2d(
        "xca",
        d_model=d_model,
        depth=depth,
        mixer_options=shared,
        patch_size=patch_size,
        stem="halving",
        positions="fourier" if positions else "none",
        block_options={"norm_eps": norm_eps, "local_interaction": True},
        class_attention=reading,
        final_norm_eps=norm_eps,
        drop_path_schedule="constant",
        initialisation="linear",
        **parts,
        **options,
    )


def _published(size: str, patch_size: int, **options: Any) -> PlainBackbone2d:
    d_model, depth, num_heads = SIZES[size]
    scale = 1e-5 if depth >= SMALL_SCALE_DEPTH else 1.0
    own: dict[str, Any] = {"layer_scale": scale, "norm_cells": size != "nano_12"}
    return xcit(d_model, depth, num_heads, patch_size=patch_size, **own, **options)


@register_model(top1=69.9, millions=3, **XCIT)
def xcit_nano_12_p16(**options: Any) -> PlainBackbone2d:
    """``xcit_nano_12_p16_224``; distilled, ``..._224_dist``, 72.2."""
    return _published("nano_12", 16, **options)


@register_model(top1=75.4, millions=3, **XCIT, image_size=384)
def xcit_nano_12_p16_384(**options: Any) -> PlainBackbone2d:
    """``xcit_nano_12_p16_384_dist``."""
    return _published("nano_12", 16, **{"image_size": 384, **options})


@register_model(top1=77.1, millions=7, **XCIT)
def xcit_tiny_12_p16(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_12_p16_224``; distilled, ``..._224_dist``, 78.6."""
    return _published("tiny_12", 16, **options)


@register_model(top1=80.9, millions=7, **XCIT, image_size=384)
def xcit_tiny_12_p16_384(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_12_p16_384_dist``."""
    return _published("tiny_12", 16, **{"image_size": 384, **options})


@register_model(top1=79.4, millions=12, **XCIT)
def xcit_tiny_24_p16(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_24_p16_224``; distilled, ``..._224_dist``, 80.4."""
    return _published("tiny_24", 16, **options)


@register_model(top1=82.6, millions=12, **XCIT, image_size=384)
def xcit_tiny_24_p16_384(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_24_p16_384_dist``."""
    return _published("tiny_24", 16, **{"image_size": 384, **options})


@register_model(top1=82.0, millions=26, **XCIT)
def xcit_small_12_p16(**options: Any) -> PlainBackbone2d:
    """``xcit_small_12_p16_224``; distilled, ``..._224_dist``, 83.3."""
    return _published("small_12", 16, **options)


@register_model(top1=84.7, millions=26, **XCIT, image_size=384)
def xcit_small_12_p16_384(**options: Any) -> PlainBackbone2d:
    """``xcit_small_12_p16_384_dist``."""
    return _published("small_12", 16, **{"image_size": 384, **options})


@register_model(top1=82.6, millions=48, **XCIT)
def xcit_small_24_p16(**options: Any) -> PlainBackbone2d:
    """``xcit_small_24_p16_224``; distilled, ``..._224_dist``, 83.9."""
    return _published("small_24", 16, **options)


@register_model(top1=85.1, millions=48, **XCIT, image_size=384)
def xcit_small_24_p16_384(**options: Any) -> PlainBackbone2d:
    """``xcit_small_24_p16_384_dist``."""
    return _published("small_24", 16, **{"image_size": 384, **options})


@register_model(top1=82.7, millions=84, **XCIT)
def xcit_medium_24_p16(**options: Any) -> PlainBackbone2d:
    """``xcit_medium_24_p16_224``; distilled, ``..._224_dist``, 84.3."""
    return _published("medium_24", 16, **options)


@register_model(top1=85.4, millions=84, **XCIT, image_size=384)
def xcit_medium_24_p16_384(**options: Any) -> PlainBackbone2d:
    """``xcit_medium_24_p16_384_dist``."""
    return _published("medium_24", 16, **{"image_size": 384, **options})


@register_model(top1=82.9, millions=189, **XCIT)
def xcit_large_24_p16(**options: Any) -> PlainBackbone2d:
    """``xcit_large_24_p16_224``; distilled, ``..._224_dist``, 84.9."""
    return _published("large_24", 16, **options)


@register_model(top1=85.8, millions=189, **XCIT, image_size=384)
def xcit_large_24_p16_384(**options: Any) -> PlainBackbone2d:
    """``xcit_large_24_p16_384_dist``."""
    return _published("large_24", 16, **{"image_size": 384, **options})


@register_model(top1=73.8, millions=3, **XCIT)
def xcit_nano_12_p8(**options: Any) -> PlainBackbone2d:
    """``xcit_nano_12_p8_224``; distilled, ``..._224_dist``, 76.3."""
    return _published("nano_12", 8, **options)


@register_model(top1=77.8, millions=3, **XCIT, image_size=384)
def xcit_nano_12_p8_384(**options: Any) -> PlainBackbone2d:
    """``xcit_nano_12_p8_384_dist``."""
    return _published("nano_12", 8, **{"image_size": 384, **options})


@register_model(top1=79.7, millions=7, **XCIT)
def xcit_tiny_12_p8(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_12_p8_224``; distilled, ``..._224_dist``, 81.2."""
    return _published("tiny_12", 8, **options)


@register_model(top1=82.4, millions=7, **XCIT, image_size=384)
def xcit_tiny_12_p8_384(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_12_p8_384_dist``."""
    return _published("tiny_12", 8, **{"image_size": 384, **options})


@register_model(top1=81.9, millions=12, **XCIT)
def xcit_tiny_24_p8(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_24_p8_224``; distilled, ``..._224_dist``, 82.6."""
    return _published("tiny_24", 8, **options)


@register_model(top1=83.7, millions=12, **XCIT, image_size=384)
def xcit_tiny_24_p8_384(**options: Any) -> PlainBackbone2d:
    """``xcit_tiny_24_p8_384_dist``."""
    return _published("tiny_24", 8, **{"image_size": 384, **options})


@register_model(top1=83.4, millions=26, **XCIT)
def xcit_small_12_p8(**options: Any) -> PlainBackbone2d:
    """``xcit_small_12_p8_224``; distilled, ``..._224_dist``, 84.2."""
    return _published("small_12", 8, **options)


@register_model(top1=85.1, millions=26, **XCIT, image_size=384)
def xcit_small_12_p8_384(**options: Any) -> PlainBackbone2d:
    """``xcit_small_12_p8_384_dist``."""
    return _published("small_12", 8, **{"image_size": 384, **options})


@register_model(top1=83.9, millions=48, **XCIT)
def xcit_small_24_p8(**options: Any) -> PlainBackbone2d:
    """``xcit_small_24_p8_224``; distilled, ``..._224_dist``, 84.9."""
    return _published("small_24", 8, **options)


@register_model(top1=85.6, millions=48, **XCIT, image_size=384)
def xcit_small_24_p8_384(**options: Any) -> PlainBackbone2d:
    """``xcit_small_24_p8_384_dist``."""
    return _published("small_24", 8, **{"image_size": 384, **options})


@register_model(top1=83.7, millions=84, **XCIT)
def xcit_medium_24_p8(**options: Any) -> PlainBackbone2d:
    """``xcit_medium_24_p8_224``; distilled, ``..._224_dist``, 85.1."""
    return _published("medium_24", 8, **options)


@register_model(top1=85.8, millions=84, **XCIT, image_size=384)
def xcit_medium_24_p8_384(**options: Any) -> PlainBackbone2d:
    """``xcit_medium_24_p8_384_dist``."""
    return _published("medium_24", 8, **{"image_size": 384, **options})


@register_model(top1=84.4, millions=189, **XCIT)
def xcit_large_24_p8(**options: Any) -> PlainBackbone2d:
    """``xcit_large_24_p8_224``; distilled, ``..._224_dist``, 85.4."""
    return _published("large_24", 8, **options)


@register_model(top1=86.0, millions=189, **XCIT, image_size=384)
def xcit_large_24_p8_384(**options: Any) -> PlainBackbone2d:
    """``xcit_large_24_p8_384_dist``."""
    return _published("large_24", 8, **{"image_size": 384, **options})
