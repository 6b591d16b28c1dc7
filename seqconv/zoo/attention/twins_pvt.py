"""PVTv2 (Wang et al. 2021, arXiv 2106.13797) and Twins (Chu et al. 2021, arXiv 2104.13840), with softmax attention.

PVTv2 and Twins-PCPVT attend to a smaller image, Twins-SVT in turns inside of windows and to a smaller image. Sizes and
figures: ``classification/pvt_v2.py`` and README.md of whai362/PVT at 57e2dfa, ``gvt.py`` and README.md of
Meituan-AutoML/Twins at c1ff671. PVTv2-B2-Linear, whose attention is to a pooled image, has no name.
"""

from collections.abc import Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model
from .ecoformer import PVT_HEADS, PVT_RATIOS, REDUCTIONS, grouped, in_turns, pvt_v2, reduced, twins

PVT, SVT, PCPVT = "whai362/PVT:PyramidVisionTransformerV2", "Meituan-AutoML/Twins:ALTGVT", "Meituan-AutoML/Twins:CPVTV2"
PVT_SOURCE, TWINS_SOURCE = "https://github.com/whai362/PVT", "https://github.com/Meituan-AutoML/Twins"
DIMS, TWINS_DEPTHS = (64, 128, 320, 512), (2, 2, 18, 2)


def _pvt(depths: Sequence[int], dims: Sequence[int] = DIMS, **options: Any) -> HierarchicalBackbone:
    mixers = [reduced(*sizes) for sizes in zip(PVT_HEADS, REDUCTIONS, strict=True)]
    return pvt_v2(dims, depths, mixers, **options)


def _svt(width: int, heads: int, depths: Sequence[int] = TWINS_DEPTHS, **options: Any) -> HierarchicalBackbone:
    each = [(heads * 2**stage, reduction) for stage, reduction in enumerate(REDUCTIONS)]
    mixers = [in_turns(grouped(count), reduced(count, reduction)) for count, reduction in each]
    return twins([width * 2**stage for stage in range(len(depths))], depths, mixers, **options)


def _pcpvt(depths: Sequence[int], **options: Any) -> HierarchicalBackbone:
    mixers = [reduced(*sizes) for sizes in zip(PVT_HEADS, REDUCTIONS, strict=True)]
    return twins(DIMS, depths, mixers, **{"mlp_ratios": PVT_RATIOS} | options)


@register_model(top1=70.5, millions=3.7, source=PVT_SOURCE, original=PVT)
def pvt_v2_b0(**options: Any) -> HierarchicalBackbone:
    """32 to 256 wide, 8 blocks."""
    return _pvt((2, 2, 2, 2), (32, 64, 160, 256), **options)


@register_model(top1=78.7, millions=14.0, source=PVT_SOURCE, original=PVT)
def pvt_v2_b1(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 8 blocks."""
    return _pvt((2, 2, 2, 2), **options)


@register_model(top1=82.0, millions=25.4, source=PVT_SOURCE, original=PVT)
def pvt_v2_b2(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 16 blocks."""
    return _pvt((3, 4, 6, 3), **options)


@register_model(top1=83.1, millions=45.2, source=PVT_SOURCE, original=PVT)
def pvt_v2_b3(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 28 blocks."""
    return _pvt((3, 4, 18, 3), **options)


@register_model(top1=83.6, millions=62.6, source=PVT_SOURCE, original=PVT)
def pvt_v2_b4(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 41 blocks."""
    return _pvt((3, 8, 27, 3), **options)


@register_model(top1=83.8, millions=82.0, source=PVT_SOURCE, original=PVT)
def pvt_v2_b5(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 52 blocks, narrower MLPs."""
    return _pvt((3, 6, 40, 3), **{"mlp_ratios": (4.0, 4.0, 4.0, 4.0)} | options)


@register_model(top1=81.7, millions=24, source=TWINS_SOURCE, original=SVT)
def twins_svt_small(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 18 blocks."""
    return _svt(64, 2, (2, 2, 10, 4), **options)


@register_model(top1=83.2, millions=56, source=TWINS_SOURCE, original=SVT)
def twins_svt_base(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 24 blocks."""
    return _svt(96, 3, **options)


@register_model(top1=83.7, millions=99.2, source=TWINS_SOURCE, original=SVT)
def twins_svt_large(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide, 24 blocks."""
    return _svt(128, 4, **options)


@register_model(top1=81.2, millions=24.1, source=TWINS_SOURCE, original=PCPVT)
def twins_pcpvt_small(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 16 blocks."""
    return _pcpvt((3, 4, 6, 3), **options)


@register_model(top1=82.7, millions=43.8, source=TWINS_SOURCE, original=PCPVT)
def twins_pcpvt_base(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 28 blocks."""
    return _pcpvt((3, 4, 18, 3), **options)


@register_model(top1=83.1, millions=60.9, source=TWINS_SOURCE, original=PCPVT)
def twins_pcpvt_large(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 41 blocks."""
    return _pcpvt((3, 8, 27, 3), **options)
