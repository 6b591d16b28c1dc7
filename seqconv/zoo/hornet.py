"""HorNet (Rao et al. 2022, arXiv 2207.14284): recursive gated convolutions, with filters in the spectrum in ``gf``.

Sizes and figures: ``hornet.py`` and README.md of raoyongming/HorNet at ac9e2105. HorNet-L was trained on a part of
ImageNet-22K, for which the README gives no accuracy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..vision.backbones.hierarchical import HierarchicalBackbone
from .registry import register_model

ORIGINAL = "raoyongming/HorNet:HorNet"
SOURCE = "https://github.com/raoyongming/HorNet"
DEPTHS, SCALE, EPS = (2, 3, 18, 2), 1 / 3, 1e-6
CONVOLUTIONS: Sequence[Mapping[str, Any]] = tuple({"order": order, "scale": SCALE} for order in (2, 3, 4, 5))
FILTERS: Sequence[Mapping[str, Any]] = (
    *CONVOLUTIONS[:2],
    {"order": 4, "scale": SCALE, "global_filter": (14, 8)},
    {"order": 5, "scale": SCALE, "global_filter": (7, 4)},
)

FILTERS_384: Sequence[Mapping[str, Any]] = (
    *CONVOLUTIONS[:2],
    {"order": 4, "scale": SCALE, "global_filter": (24, 13)},
    {"order": 5, "scale": SCALE, "global_filter": (12, 7)},
)
CLASSES_22K = 10_459
"""As few as ``in1k_to_21k_map.pth`` allows, whose largest index is 10,458; the published numbers of parameters fit."""
LARGE: Mapping[str, Any] = {
    "top1": None, "measure": "ImageNet-22K", "num_classes": CLASSES_22K, "source": SOURCE, "original": ORIGINAL
}  # fmt: skip


def hornet(
    width: int,
    mixers: Sequence[Mapping[str, Any]] = CONVOLUTIONS,
    *,
    depths: Sequence[int] = DEPTHS,
    layer_scale: float | None = 1e-6,
    **options: Any,
) -> HierarchicalBackbone:
    """A HorNet: ``width`` doubles from stage to stage; ``mixers`` are the options of the mixers of each."""
    return HierarchicalBackbone(
        "gnconv",
        dims=[width * 2**stage for stage in range(len(depths))],
        depths=depths,
        stage_options=mixers,
        stem="patch",
        stem_options={"eps": EPS},
        downsampling="strided",
        downsampling_options={"norm": "layer", "eps": EPS},
        layer_scale=layer_scale,
        block_options={"norm_eps": EPS},
        final_norm="pooled_layer",
        final_norm_eps=EPS,
        **options,
    )


@register_model(top1=82.8, millions=22, source=SOURCE, original=ORIGINAL)
def hornet_tiny_7x7(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide."""
    return hornet(64, **options)


@register_model(top1=83.0, millions=23, source=SOURCE, original=ORIGINAL)
def hornet_tiny_gf(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, filters in the spectrum in the last two stages."""
    return hornet(64, FILTERS, **options)


@register_model(top1=83.8, millions=50, source=SOURCE, original=ORIGINAL)
def hornet_small_7x7(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide."""
    return hornet(96, **options)


@register_model(top1=84.0, millions=50, source=SOURCE, original=ORIGINAL)
def hornet_small_gf(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, filters in the spectrum in the last two stages."""
    return hornet(96, FILTERS, **options)


@register_model(top1=84.2, millions=87, source=SOURCE, original=ORIGINAL)
def hornet_base_7x7(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide."""
    return hornet(128, **options)


@register_model(top1=84.3, millions=88, source=SOURCE, original=ORIGINAL)
def hornet_base_gf(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide, filters in the spectrum in the last two stages."""
    return hornet(128, FILTERS, **options)


@register_model(top1=None, millions=92, source=SOURCE, original=ORIGINAL, image_size=384)
def hornet_base_gf_img384(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide, filters of images of 384 by 384 pixels; in the code, without published weights or accuracy."""
    return hornet(128, FILTERS_384, **options)


@register_model(millions=209, **LARGE)
def hornet_large_7x7(**options: Any) -> HierarchicalBackbone:
    """192 to 1536 wide."""
    return hornet(192, **options)


@register_model(millions=211, **LARGE)
def hornet_large_gf(**options: Any) -> HierarchicalBackbone:
    """192 to 1536 wide, filters in the spectrum in the last two stages."""
    return hornet(192, FILTERS, **options)


@register_model(millions=216, **LARGE, image_size=384)
def hornet_large_gf_img384(**options: Any) -> HierarchicalBackbone:
    """192 to 1536 wide, filters in the spectrum of images of 384 by 384 pixels in the last two stages."""
    return hornet(192, FILTERS_384, **options)
