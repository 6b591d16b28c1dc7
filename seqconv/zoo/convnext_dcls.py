"""ConvNeXt with DCLS (Khalfaoui-Hassani et al. 2023, arXiv 2112.03740): learned places of taps, shared by each stage.

Sizes and figures: ``models/convnext_dcls.py`` and README.md of K-H-Ismail/ConvNeXt-dcls at aad45f38. In training its
positions have five times the learning rate, no decay, and are clamped after each step (``clamp_positions`` of
:class:`~seqconv.filters.explicit.dcls_2d.SharedTaps2d`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..layers.initialisation import LINEAR_INIT_STD
from ..vision.backbones.hierarchical import HierarchicalBackbone
from .registry import register_model

ORIGINAL = "K-H-Ismail/ConvNeXt-dcls:ConvNeXt_dcls"
SOURCE = "https://github.com/K-H-Ismail/ConvNeXt-dcls"
EPS, SPAN = 1e-6, 17
DEPTHS, DEEP = (3, 3, 9, 3), (3, 3, 27, 3)
DIMS, WIDE = (96, 192, 384, 768), (128, 256, 512, 1024)
BLOCK_OPTIONS: Mapping[str, Any] = {"norm_eps": EPS, "mixer_norm": False, "single_residual": True}


def convnext_dcls(
    depths: Sequence[int],
    dims: Sequence[int],
    kernel_count: int,
    *,
    span: int = SPAN,
    layer_scale: float | None = 1e-6,
    **options: Any,
) -> HierarchicalBackbone:
    """A ConvNeXt whose depthwise convolutions have ``kernel_count`` taps in windows of ``span`` cells a side."""
    taps = {"kernel_count": kernel_count, "span": span, "version": "v0", "shared_positions": True}
    return HierarchicalBackbone(
        "dcls",
        dims=dims,
        depths=depths,
        mixer_options={**taps, "projection": False, "init_std": LINEAR_INIT_STD},
        stem="patch",
        stem_options={"eps": EPS},
        downsampling="strided",
        downsampling_options={"norm": "layer", "eps": EPS},
        layer_scale=layer_scale,
        block_options=BLOCK_OPTIONS,
        final_norm="pooled_layer",
        final_norm_eps=EPS,
        initialisation="all",
        **options,
    )


@register_model(top1=82.5, millions=28, source=SOURCE, original=ORIGINAL)
def convnext_dcls_tiny(**options: Any) -> HierarchicalBackbone:
    """18 blocks of 34 taps, 96 to 768 wide."""
    return convnext_dcls(DEPTHS, DIMS, 34, **options)


@register_model(top1=83.7, millions=50, source=SOURCE, original=ORIGINAL)
def convnext_dcls_small(**options: Any) -> HierarchicalBackbone:
    """36 blocks of 40 taps, 96 to 768 wide."""
    return convnext_dcls(DEEP, DIMS, 40, **options)


@register_model(top1=84.1, millions=89, source=SOURCE, original=ORIGINAL)
def convnext_dcls_base(**options: Any) -> HierarchicalBackbone:
    """36 blocks of 40 taps, 128 to 1024 wide."""
    return convnext_dcls(DEEP, WIDE, 40, **options)
