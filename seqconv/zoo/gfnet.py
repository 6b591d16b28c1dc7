"""GFNet (Rao et al. 2021, arXiv 2107.00645): filters in the spectrum of the patches, plain and in stages (``_h``).

Sizes and figures: ``gfnet.py``, ``main_gfnet.py`` and README.md of raoyongming/GFNet at 2de48b62.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..vision.backbones.hierarchical import HierarchicalBackbone
from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

ORIGINAL, HIERARCHICAL = "raoyongming/GFNet:GFNet", "raoyongming/GFNet:GFNetPyramid"
SOURCE = "https://github.com/raoyongming/GFNet"
PATCH_SIZE = 16
BLOCK_OPTIONS: Mapping[str, Any] = {"norm_eps": 1e-6, "single_residual": True}


def _gfnet(d_model: int, depth: int, *, image_size: int = 224, **options: Any) -> PlainBackbone2d:
    return PlainBackbone2d(
        "global_filter",
        d_model=d_model,
        depth=depth,
        mixer_options={"size": image_size // PATCH_SIZE},
        image_size=image_size,
        patch_size=PATCH_SIZE,
        mlp_ratio=4.0,
        block_options=BLOCK_OPTIONS,
        initialisation="linear",
        **options,
    )


def gfnet_stages(
    dims: Sequence[int],
    depths: Sequence[int],
    *,
    layer_scale: float | None = 1e-3,
    mlp_ratios: Sequence[float] = (4.0, 4.0, 4.0, 4.0),
    image_size: int = 224,
    **options: Any,
) -> HierarchicalBackbone:
    """A GFNet in stages, with positions in the first, for images of ``image_size``."""
    sizes = [image_size // (4 * 2**stage) for stage in range(len(dims))]
    return HierarchicalBackbone(
        "global_filter",
        dims=dims,
        depths=depths,
        stage_options=[{"size": size} for size in sizes],
        stem="project",
        downsampling="strided",
        mlp_ratio=list(mlp_ratios),
        layer_scale=layer_scale,
        block_options=BLOCK_OPTIONS,
        position_sizes=sizes[:1],
        final_norm_eps=1e-6,
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


@register_model(top1=80.1, millions=15, source=SOURCE, original=HIERARCHICAL)
def gfnet_h_tiny(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 19 blocks."""
    return gfnet_stages((64, 128, 256, 512), (3, 3, 10, 3), **options)


@register_model(top1=81.5, millions=32, source=SOURCE, original=HIERARCHICAL)
def gfnet_h_small(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 19 blocks."""
    return gfnet_stages((96, 192, 384, 768), (3, 3, 10, 3), **{"layer_scale": 1e-5} | options)


@register_model(top1=82.9, millions=54, source=SOURCE, original=HIERARCHICAL)
def gfnet_h_base(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 36 blocks."""
    return gfnet_stages((96, 192, 384, 768), (3, 3, 27, 3), **{"layer_scale": 1e-6} | options)
