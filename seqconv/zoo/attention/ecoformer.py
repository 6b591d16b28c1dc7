"""EcoFormer (Liu et al. 2022, arXiv 2209.09004): PVTv2 and Twins-SVT with attention of codes in all but the last stage.

PVTv2 (Wang et al. 2021, arXiv 2106.13797) has patches that overlap and convolutions inside of its MLPs, Twins-SVT (Chu
et al. 2021, arXiv 2104.13840) a convolution that encodes positions after the first block of each stage. The last stage
keeps the attention of all cells to all. Sizes: ``pvt/pvt_v2.py``, ``twins/gvt.py`` and the configurations of
ziplab/EcoFormer at a277f9e8, accuracies: its README.md. Numbers of parameters, which are not published, are those of
its classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...vision.backbones.hierarchical import HierarchicalBackbone
from ..registry import register_model

PVT, TWINS = "ziplab/EcoFormer:PyramidVisionTransformerV2", "ziplab/EcoFormer:ALTGVT"
SOURCE = "https://github.com/ziplab/EcoFormer"
NUM_BITS, NUM_ANCHORS = 16, 25
EPS = 1e-6
"""Of the norms of blocks and stages; those of patches have PyTorch's."""
PVT_HEADS, PVT_RATIOS, REDUCTIONS = (1, 2, 5, 8), (8.0, 8.0, 4.0, 4.0), (8, 4, 2, 1)
TWINS_HEADS, WINDOW = (2, 4, 8, 16), 7

Mixers = Sequence[tuple[Any, Mapping[str, Any] | Sequence[Mapping[str, Any]]]]
"""Name of the mixer of each stage and its options, or several of them, repeated over the blocks of the stage."""


def hashed(num_heads: int, *, num_bits: int = NUM_BITS, num_anchors: int = NUM_ANCHORS, bias: bool = True) -> Any:
    """Attention of codes, as the released code computes it."""
    sizes = {"num_heads": num_heads, "num_bits": num_bits, "num_anchors": num_anchors}
    return "hashed", {**sizes, "bias": bias, "own_value": True}


def reduced(num_heads: int, reduction: int = 1, *, bias: bool = True) -> Any:
    """Attention of all cells to all, or to a smaller image (of Twins: global sub-sampled attention)."""
    return "reduced_attention", {"num_heads": num_heads, "reduction": reduction, "qkv_bias": bias}


def grouped(num_heads: int, window: int = WINDOW, *, bias: bool = True) -> Any:
    """Attention inside of windows (of Twins: locally grouped attention)."""
    return "shifted_window", {"num_heads": num_heads, "window": window, "qkv_bias": bias, "offset_bias": False}


def in_turns(*mixers: Any) -> Any:
    """Several mixers of a stage, repeated over its blocks."""
    names, options = zip(*mixers, strict=True)
    return names, options


def hashed_stages(num_heads: Sequence[int]) -> Mixers:
    """Attention of codes in all stages but the last."""
    return [*(hashed(heads) for heads in num_heads[:-1]), reduced(num_heads[-1])]


def pvt_v2(
    dims: Sequence[int],
    depths: Sequence[int],
    mixers: Mixers,
    *,
    mlp_ratios: Sequence[float] = PVT_RATIOS,
    **options: Any,
) -> HierarchicalBackbone:
    """A PVTv2 with one kind of mixer for each stage."""
    return HierarchicalBackbone(
        [name for name, _ in mixers],
        dims=dims,
        depths=depths,
        stage_options=[own for _, own in mixers],
        stem="overlap",
        stem_options={"norm": "layer", "padding": 3},
        downsampling="conv",
        downsampling_options={"input_norm_eps": EPS},
        mlp_ratio=list(mlp_ratios),
        block_options={"mlp": "conv_alone", "norm_eps": EPS},
        final_norm_eps=EPS,
        initialisation="fan_out",
        **options,
    )


def twins(
    dims: Sequence[int],
    depths: Sequence[int],
    mixers: Mixers,
    *,
    mlp_ratios: Sequence[float] = (4.0, 4.0, 4.0, 4.0),
    **options: Any,
) -> HierarchicalBackbone:
    """A Twins with mixers for each stage, the same in all of its blocks or in turns."""
    return HierarchicalBackbone(
        [name for name, _ in mixers],
        dims=dims,
        depths=depths,
        stage_options=[own for _, own in mixers],
        downsampling="conv2",
        mlp_ratio=list(mlp_ratios),
        block_options={"norm_eps": EPS},
        position_convs=True,
        final_norm_eps=EPS,
        initialisation="fan_out",
        **options,
    )


def _pvt(depths: Sequence[int], dims: Sequence[int] = (64, 128, 320, 512), **options: Any) -> HierarchicalBackbone:
    return pvt_v2(dims, depths, hashed_stages(PVT_HEADS), **options)


@register_model(top1=70.44, millions=3.1, source=SOURCE, original=PVT)
def pvtv2_b0_ecoformer(**options: Any) -> HierarchicalBackbone:
    """32 to 256 wide, 8 blocks."""
    return _pvt((2, 2, 2, 2), (32, 64, 160, 256), **options)


@register_model(top1=78.38, millions=11.9, source=SOURCE, original=PVT)
def pvtv2_b1_ecoformer(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 8 blocks."""
    return _pvt((2, 2, 2, 2), **options)


@register_model(top1=81.28, millions=20.4, source=SOURCE, original=PVT)
def pvtv2_b2_ecoformer(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 16 blocks."""
    return _pvt((3, 4, 6, 3), **options)


@register_model(top1=81.96, millions=34.1, source=SOURCE, original=PVT)
def pvtv2_b3_ecoformer(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 28 blocks."""
    return _pvt((3, 4, 18, 3), **options)


@register_model(top1=81.90, millions=45.7, source=SOURCE, original=PVT)
def pvtv2_b4_ecoformer(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 41 blocks."""
    return _pvt((3, 8, 27, 3), **options)


@register_model(top1=80.22, millions=21.5, source=SOURCE, original=TWINS)
def twins_svt_s_ecoformer(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 18 blocks."""
    return twins((64, 128, 256, 512), (2, 2, 10, 4), hashed_stages(TWINS_HEADS), **options)
