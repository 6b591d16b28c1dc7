"""EfficientVMamba (Pei et al. 2024, arXiv 2403.09977): atrous scans in two stages, inverted residuals in the others.

Sizes and figures: ``classification/configs/vssm``, ``classification/logs`` and README.md of TerryPei/EfficientVMamba at
0bc5ee28.
"""

from collections.abc import Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model

ORIGINAL = "TerryPei/EfficientVMamba:EfficientVSSM"
SOURCE = "https://github.com/TerryPei/EfficientVMamba"


def _efficient(width: int, depths: Sequence[int], **options: Any) -> HierarchicalBackbone:
    return HierarchicalBackbone(
        "efficient_vmamba",
        dims=[width * 2**stage for stage in range(len(depths))],
        depths=depths,
        stage_blocks=["mixer", "mixer", "inverted_residual", "inverted_residual"],
        mlp_ratio=0.0,
        **options,
    )


@register_model(top1=76.5, millions=6, source=SOURCE, original=ORIGINAL)
def efficient_vmamba_tiny(**options: Any) -> HierarchicalBackbone:
    """48 to 384 wide."""
    return _efficient(48, (2, 2, 4, 2), **options)


@register_model(top1=78.7, millions=11, source=SOURCE, original=ORIGINAL)
def efficient_vmamba_small(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide."""
    return _efficient(64, (2, 2, 4, 2), **options)


@register_model(top1=81.8, millions=33, source=SOURCE, original=ORIGINAL)
def efficient_vmamba_base(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide."""
    return _efficient(96, (2, 2, 9, 2), **options)
