"""ViG (Liao et al. 2024, arXiv 2405.18425): bidirectional gated linear attention, plain and in stages (``vig_h``).

Sizes and figures: ``classification/configs`` and README.md of hustvl/ViG at dfb9d321.
"""

from collections.abc import Sequence
from typing import Any

from ..vision.backbones.hierarchical import HierarchicalBackbone
from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

PLAIN, HIERARCHICAL = "hustvl/ViG:ViG", "hustvl/ViG:HierViG"
SOURCE = "https://github.com/hustvl/ViG"
EVALUATION_SCALE = 0.25
"""Of the sum of directions, as plain models are evaluated; 0.5 in training: the norm after it hides all but ε."""


def _vig(d_model: int, num_heads: int, *, first_activations: bool = False, **options: Any) -> PlainBackbone2d:
    activations = {"conv_activation": first_activations, "out_activation": first_activations}
    return PlainBackbone2d(
        "vig",
        d_model=d_model,
        depth=12,
        mixer_options={"num_heads": num_heads, "direction_scale": EVALUATION_SCALE, **activations},
        stem="conv_silu",
        final_norm="rms",
        mlp_ratio=4.0,
        block_options={"norm": "rms", "norm_eps": 1e-6, "mlp": "silu"},
        initialisation="mlp",
        **options,
    )


def _vig_h(width: int, depths: Sequence[int], hidden: Sequence[int], **options: Any) -> HierarchicalBackbone:
    dims = [width * 2**stage for stage in range(len(depths))]
    return HierarchicalBackbone(
        "vig",
        dims=dims,
        depths=depths,
        stage_options=[{"num_heads": dim // 32} for dim in dims],
        stem="conv",
        downsampling="conv",
        mlp_ratio=[hidden / dim for hidden, dim in zip(hidden, dims, strict=True)],
        block_options={"mlp": "swiglu", "mlp_bias": False},
        **options,
    )


@register_model(top1=77.2, millions=6, source=SOURCE, original=PLAIN)
def vig_tiny(**options: Any) -> PlainBackbone2d:
    """192 wide, with SiLU after the convolution and in front of the last projection of the mixer."""
    return _vig(192, 3, first_activations=True, **options)


@register_model(top1=81.7, millions=23, source=SOURCE, original=PLAIN)
def vig_small(**options: Any) -> PlainBackbone2d:
    """384 wide."""
    return _vig(384, 6, **options)


@register_model(top1=82.6, millions=89, source=SOURCE, original=PLAIN)
def vig_base(**options: Any) -> PlainBackbone2d:
    """768 wide."""
    return _vig(768, 12, **options)


@register_model(top1=82.8, millions=29, source=SOURCE, original=HIERARCHICAL)
def vig_h_tiny(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 11 blocks."""
    return _vig_h(96, (2, 2, 5, 2), (256, 512, 1024, 2048), **options)


@register_model(top1=83.8, millions=50, source=SOURCE, original=HIERARCHICAL)
def vig_h_small(**options: Any) -> HierarchicalBackbone:
    """96 to 768 wide, 23 blocks."""
    return _vig_h(96, (2, 2, 17, 2), (256, 512, 1024, 2048), **options)


@register_model(top1=84.2, millions=89, source=SOURCE, original=HIERARCHICAL)
def vig_h_base(**options: Any) -> HierarchicalBackbone:
    """128 to 1024 wide, 23 blocks."""
    return _vig_h(128, (2, 2, 17, 2), (352, 704, 1376, 2752), **options)
