"""Sequencer2D (Tatsunami and Taki 2022, arXiv 2205.01972): LSTMs along columns and rows.

Sizes and figures: ``models/two_dim_sequencer.py`` and README.md of okojoalg/sequencer at 408520e7.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..vision.backbones.hierarchical import HierarchicalBackbone
from .registry import register_model

ORIGINAL = "okojoalg/sequencer:Sequencer2D"
SOURCE = "https://github.com/okojoalg/sequencer"
DIMS, HIDDEN, PATCH_SIZES = (192, 384, 384, 384), (48, 96, 96, 96), (7, 2, 1, 1)
MIXERS: Sequence[Mapping[str, Any]] = [{"d_hidden": hidden} for hidden in HIDDEN]
NORM_EPS = 1e-6


def sequencer2d(
    depths: Sequence[int],
    *,
    dims: Sequence[int] = DIMS,
    mixers: Sequence[Mapping[str, Any]] = MIXERS,
    patch_sizes: Sequence[int] = PATCH_SIZES,
    **options: Any,
) -> HierarchicalBackbone:
    """A Sequencer2D: stages after the first halve the resolution or keep it, by their patch sizes."""
    return HierarchicalBackbone(
        "sequencer",
        dims=dims,
        depths=depths,
        stage_options=mixers,
        patch_size=patch_sizes[0],
        stem="project",
        downsampling=["strided" if size == 2 else "project" for size in patch_sizes[1:]],
        block_options={"norm_eps": NORM_EPS},
        final_norm_eps=NORM_EPS,
        initialisation="xavier",
        head_init_std=0.0,
        **{"mlp_ratio": 3.0} | options,
    )


@register_model(top1=82.3, millions=28, source=SOURCE, original=ORIGINAL)
def sequencer2d_s(**options: Any) -> HierarchicalBackbone:
    """18 blocks."""
    return sequencer2d((4, 3, 8, 3), **options)


@register_model(top1=82.8, millions=38, source=SOURCE, original=ORIGINAL)
def sequencer2d_m(**options: Any) -> HierarchicalBackbone:
    """24 blocks."""
    return sequencer2d((4, 3, 14, 3), **options)


@register_model(top1=83.4, millions=54, source=SOURCE, original=ORIGINAL)
def sequencer2d_l(**options: Any) -> HierarchicalBackbone:
    """36 blocks."""
    return sequencer2d((8, 8, 16, 4), **options)
