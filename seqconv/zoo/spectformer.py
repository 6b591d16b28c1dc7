"""SpectFormer (Patro et al. 2023, arXiv 2304.06446): blocks of filters in the spectrum, then blocks of attention.

Sizes and figures: ``vanilla_architecture/main_spectformer.py``, ``hierarchical_architecture/spectformer.py`` and the
README.md of both folders of badripatro/SpectFormers at b6cf487a. The models in stages were trained with labels of
single cells, and read them too. The plain Base is left out: no number of heads in the code divides its width of 512.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..vision.backbones.backbone import TokenLabelClassifier
from ..vision.backbones.hierarchical import HierarchicalBackbone
from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

PLAIN, HIERARCHICAL = "badripatro/SpectFormers:SpectFormer", "badripatro/SpectFormers:HierarchicalSpectFormer"
SOURCE = "https://github.com/badripatro/SpectFormers"

SPECTRAL_BLOCKS, SPECTRAL_STAGES = 4, 2
NUM_HEADS = 6
"""The code's, for widths that they divide."""
BLOCK_OPTIONS: Mapping[str, Any] = {"norm_eps": 1e-6}
ATTENTION: Mapping[str, Any] = {"bidirectional": True, "rotary": False, "qkv_bias": True, "o_bias": True}


def spectformer(
    d_model: int,
    depth: int,
    *,
    num_heads: int = NUM_HEADS,
    image_size: int = 224,
    patch_size: int = 16,
    **options: Any,
) -> PlainBackbone2d:
    """A plain SpectFormer: 4 blocks as GFNet's, then attention."""
    attention = {**ATTENTION, "num_heads": num_heads}
    spectral = ("global_filter", {"size": image_size // patch_size}, {"single_residual": True})
    return PlainBackbone2d(
        "scan",
        d_model=d_model,
        depth=depth,
        mixer_options={"mixer": "attention", "mixer_options": attention, "orders": ["row"]},
        first_mixers=[spectral] * min(SPECTRAL_BLOCKS, depth),
        image_size=image_size,
        patch_size=patch_size,
        block_options=BLOCK_OPTIONS,
        initialisation="linear",
        **{"mlp_ratio": 4.0} | options,
    )


def spectformer_h(
    dims: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    stem_channels: int,
    *,
    mlp_ratios: Sequence[float] = (8.0, 8.0, 4.0, 4.0),
    image_size: int = 224,
    norm_eps: float = 1e-6,
    **options: Any,
) -> HierarchicalBackbone:
    """A SpectFormer in stages: filters in the first two, attention in the others, and attention of one token to all."""
    sizes = [image_size // (4 * 2**stage) for stage in range(len(dims))]
    attention = [{"num_heads": heads} for heads in num_heads]
    spectral = [{"size": size} for size in sizes]
    return HierarchicalBackbone(
        ["global_filter" if stage < SPECTRAL_STAGES else "reduced_attention" for stage in range(len(dims))],
        dims=dims,
        depths=depths,
        stage_options=[*spectral[:SPECTRAL_STAGES], *attention[SPECTRAL_STAGES:]],
        stem="conv7_norm",
        stem_options={"channels": stem_channels},
        downsampling="conv",
        downsampling_options={"input_norm_eps": norm_eps},
        mlp_ratio=list(mlp_ratios),
        block_options={"mlp": "conv_alone", "norm_eps": norm_eps},
        final_norm_eps=norm_eps,
        initialisation="fan_out",
        class_attention={"num_heads": num_heads[-1], "mlp_ratio": mlp_ratios[-1], "norm_eps": norm_eps},
        **options,
    )


@register_model(top1=76.9, millions=9, source=SOURCE, original=PLAIN)
def spectformer_tiny(**options: Any) -> PlainBackbone2d:
    """256 wide, 12 layers; 4 heads, as a comment of the code says, whose 6 do not divide the width."""
    return spectformer(256, 12, **{"num_heads": 4} | options)


@register_model(top1=80.2, millions=20, source=SOURCE, original=PLAIN)
def spectformer_xsmall(**options: Any) -> PlainBackbone2d:
    """384 wide, 12 layers; the README says 22 million parameters, its log of the training 20,028,520."""
    return spectformer(384, 12, **options)


@register_model(top1=81.7, millions=32, source=SOURCE, original=PLAIN)
def spectformer_small(**options: Any) -> PlainBackbone2d:
    """384 wide, 19 layers."""
    return spectformer(384, 19, **options)


@register_model(top1=84.3, millions=22.2, source=SOURCE, original=HIERARCHICAL, classifier=TokenLabelClassifier)
def spectformer_h_small(**options: Any) -> HierarchicalBackbone:
    """64 to 448 wide, 16 blocks."""
    return spectformer_h((64, 128, 320, 448), (3, 4, 6, 3), (2, 4, 10, 14), 32, **options)


@register_model(top1=85.0, millions=33.1, source=SOURCE, original=HIERARCHICAL, classifier=TokenLabelClassifier)
def spectformer_h_base(**options: Any) -> HierarchicalBackbone:
    """64 to 512 wide, 22 blocks."""
    return spectformer_h((64, 128, 320, 512), (3, 4, 12, 3), (2, 4, 10, 16), 64, **options)


@register_model(top1=85.7, millions=54.7, source=SOURCE, original=HIERARCHICAL, classifier=TokenLabelClassifier)
def spectformer_h_large(**options: Any) -> HierarchicalBackbone:
    """96 to 512 wide, 30 blocks."""
    return spectformer_h((96, 192, 384, 512), (3, 6, 18, 3), (3, 6, 12, 16), 64, **options)
