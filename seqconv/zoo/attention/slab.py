"""SLAB (Guo et al. 2024, arXiv 2405.11582): DeiT with simplified linear attention and batch norms after training.

Those that have DeiT's own attention and batch norms alone are ``…_prepbn``. Sizes and figures:
``classification/models/slab_deit.py``, ``deit.py`` and README.md of xinghaochen/SLAB at f58db00b; the numbers of
parameters, which are not published, are those of its classes. The norms of its ``deit_tiny_patch16_224_repbn`` are
written there as they are after the training; here those of both sizes have both of their parts.
"""

from collections.abc import Mapping
from typing import Any

from ...vision.backbones.plain import PlainBackbone
from ...vision.backbones.plain_2d import PlainBackbone2d
from ..registry import register_model

ORIGINAL, DEIT = "xinghaochen/SLAB:VisionTransformer", "xinghaochen/SLAB:deit.VisionTransformer"
SOURCE = "https://github.com/xinghaochen/SLAB"
NORM_OPTIONS: Mapping[str, Any] = {"steps": 60_000, "layer_eps": 1e-6}
NORM_EPS = 1e-5
DEIT_NORM: Mapping[str, Any] = {"eps": NORM_EPS, "steps": 300_000, "layer_eps": 1e-6}


def slab_deit(
    d_model: int,
    num_heads: int,
    *,
    depth: int = 12,
    image_size: int = 224,
    patch_size: int = 16,
    qkv_bias: bool = True,
    **options: Any,
) -> PlainBackbone2d:
    """A DeiT of the SLAB mixer, with a position for every patch of images of ``image_size``."""
    return PlainBackbone2d(
        "slab",
        d_model=d_model,
        depth=depth,
        mixer_options={"num_heads": num_heads, "qkv_bias": qkv_bias, "size": image_size // patch_size},
        image_size=image_size,
        patch_size=patch_size,
        block_options={"norm": "prep_batch", "norm_eps": NORM_EPS, "norm_options": NORM_OPTIONS},
        final_norm="prep_batch",
        final_norm_eps=NORM_EPS,
        final_norm_options=NORM_OPTIONS,
        initialisation="linear",
        **{"mlp_ratio": 4.0} | options,
    )


@register_model(top1=74.3, millions=6.2, source=SOURCE, original=ORIGINAL)
def slab_deit_tiny(**options: Any) -> PlainBackbone2d:
    """192 wide."""
    return slab_deit(192, 3, **options)


@register_model(top1=80.0, millions=23.0, source=SOURCE, original=ORIGINAL)
def slab_deit_small(**options: Any) -> PlainBackbone2d:
    """384 wide."""
    return slab_deit(384, 6, **options)


def deit_prepbn(
    d_model: int, num_heads: int, *, depth: int = 12, qkv_bias: bool = True, **options: Any
) -> PlainBackbone:
    """A DeiT with a class token in front of the patches."""
    attention = {"num_heads": num_heads, "bidirectional": True, "rotary": False, "qkv_bias": qkv_bias, "o_bias": True}
    return PlainBackbone(
        "attention",
        d_model=d_model,
        depth=depth,
        mixer_options=attention,
        cls_position="first",
        norm="prep_batch",
        norm_options=DEIT_NORM,
        mlp="gelu",
        initialisation="linear",
        **options,
    )


@register_model(top1=73.6, millions=5.7, source=SOURCE, original=DEIT)
def deit_tiny_prepbn(**options: Any) -> PlainBackbone:
    """192 wide, DeiT's own attention."""
    return deit_prepbn(192, 3, **options)


@register_model(top1=80.2, millions=22.1, source=SOURCE, original=DEIT)
def deit_small_prepbn(**options: Any) -> PlainBackbone:
    """384 wide, DeiT's own attention."""
    return deit_prepbn(384, 6, **options)
