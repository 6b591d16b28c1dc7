"""MSVMamba (Shi et al. 2024, arXiv 2405.14174): scans at two resolutions.

Sizes and figures: ``classification/configs/ms_vssm`` and README.md of YuHengsss/MSVMamba at c3940191.
"""

from collections.abc import Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model

ORIGINAL = "YuHengsss/MSVMamba:VSSM"
SOURCE = "https://github.com/YuHengsss/MSVMamba"


def _msvmamba(width: int, depths: Sequence[int], **options: Any) -> HierarchicalBackbone:
    return HierarchicalBackbone(
        "multi_scale",
        dims=[width * 2**stage for stage in range(len(depths))],
        depths=depths,
        mlp_ratio=2.0,
        block_options={"mlp": "conv_before"},
        **options,
    )


@register_model(top1=77.3, millions=7, source=SOURCE, original=ORIGINAL)
def msvmamba_nano(**options: Any) -> HierarchicalBackbone:
    """48 to 384 wide."""
    return _msvmamba(48, (1, 2, 5, 2), **options)


@register_model(top1=79.8, millions=12, source=SOURCE, original=ORIGINAL)
def msvmamba_micro(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide."""
    return _msvmamba(64, (1, 2, 5, 2), **options)


@register_model(top1=82.8, millions=33, source=SOURCE, original=ORIGINAL)
def msvmamba_tiny(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide."""
    return _msvmamba(96, (1, 2, 9, 2), **options)
