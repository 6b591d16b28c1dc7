"""VMamba (Liu et al. 2024, arXiv 2401.10166), second generation: SS2D without a gate, one state per channel.

Sizes and figures: ``vmamba.py`` and README.md of MzeroMiko/VMamba at 2ed52ead. ``s2l15`` means two inner channels per
channel and 15 blocks in the third stage. The names without a suffix are the sizes of the paper's table.
"""

from collections.abc import Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model

ORIGINAL = "MzeroMiko/VMamba:VSSM"
SOURCE = "https://github.com/MzeroMiko/VMamba"


def _vmamba(width: int, depths: Sequence[int], expand: float, **options: Any) -> HierarchicalBackbone:
    mixer_options = {"d_state": 1, "expand": expand, "gate": "none", "conv_bias": False}
    return HierarchicalBackbone(
        "ss2d",
        dims=[width * 2**stage for stage in range(len(depths))],
        depths=depths,
        mixer_options=mixer_options,
        stem="conv",
        downsampling="conv",
        **options,
    )


@register_model(top1=82.6, millions=30, source=SOURCE, original=ORIGINAL)
def vmamba_tiny(**options: Any) -> HierarchicalBackbone:
    """``s1l8``, 96 to 768 wide."""
    return _vmamba(96, (2, 2, 8, 2), 1.0, **options)


@register_model(top1=83.6, millions=50, source=SOURCE, original=ORIGINAL)
def vmamba_small(**options: Any) -> HierarchicalBackbone:
    """``s2l15``, 96 to 768 wide."""
    return _vmamba(96, (2, 2, 15, 2), 2.0, **options)


@register_model(top1=83.9, millions=89, source=SOURCE, original=ORIGINAL)
def vmamba_base(**options: Any) -> HierarchicalBackbone:
    """``s2l15``, 128 to 1024 wide."""
    return _vmamba(128, (2, 2, 15, 2), 2.0, **options)
