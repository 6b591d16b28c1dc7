"""SLAB (Guo et al. 2024, arXiv 2405.11582): DeiT with simplified linear attention and batch norms after training.

Sizes and figures: ``classification/models/slab_deit.py`` and README.md of xinghaochen/SLAB at f58db00b; the
numbers of parameters, which are not published, are those of its classes.
"""

from collections.abc import Mapping
from typing import Any

from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

ORIGINAL = "xinghaochen/SLAB:VisionTransformer"
SOURCE = "https://github.com/xinghaochen/SLAB"
NORM_OPTIONS: Mapping[str, Any] = {"steps": 60_000, "layer_eps": 1e-6}
NORM_EPS = 1e-5


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
        norm="prep_batch",
        norm_eps=NORM_EPS,
        norm_options=NORM_OPTIONS,
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
