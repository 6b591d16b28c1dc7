"""VMamba (Liu et al. 2024, arXiv 2401.10166): selective scans along rows and columns, in four stages.

The second generation has no gate, one state per channel, and an MLP in each block; ``s2l15`` means two inner channels
per channel and 15 blocks in the third stage, and the names without a suffix are the sizes of the paper's table. The
first, ``vmamba_v0``, has a gate, 16 states per channel and no MLP. Sizes and figures: ``vmamba.py`` and
``assets/performance.md`` of MzeroMiko/VMamba at 2ed52ead.
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


def _vmamba_v0(width: int, depth: int, **options: Any) -> HierarchicalBackbone:
    dims = [width * 2**stage for stage in range(4)]
    return HierarchicalBackbone("ss2d", dims=dims, depths=(2, 2, depth, 2), mlp_ratio=0.0, **options)


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


@register_model(top1=82.5, millions=31, source=SOURCE, original=ORIGINAL)
def vmamba_tiny_s2l5(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, two inner channels per channel."""
    return _vmamba(96, (2, 2, 5, 2), 2.0, **options)


@register_model(top1=83.3, millions=49, source=SOURCE, original=ORIGINAL)
def vmamba_small_s1l20(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, as many inner channels as channels."""
    return _vmamba(96, (2, 2, 20, 2), 1.0, **options)


@register_model(top1=83.8, millions=87, source=SOURCE, original=ORIGINAL)
def vmamba_base_s1l20(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide, as many inner channels as channels."""
    return _vmamba(128, (2, 2, 20, 2), 1.0, **options)


@register_model(top1=82.2, millions=23, source=SOURCE, original=ORIGINAL)
def vmamba_v0_tiny(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 15 blocks."""
    return _vmamba_v0(96, 9, **options)


@register_model(top1=83.5, millions=44, source=SOURCE, original=ORIGINAL)
def vmamba_v0_small(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 33 blocks."""
    return _vmamba_v0(96, 27, **options)


@register_model(top1=83.7, millions=76, source=SOURCE, original=ORIGINAL)
def vmamba_v0_base(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide, 33 blocks."""
    return _vmamba_v0(128, 27, **options)
