"""RMT (Fan et al. 2023, arXiv 2309.11523): attention with Manhattan decay, decomposed in the first stages.

Sizes and figures: ``classfication_release/RMT.py``, ``classification_token_label_release/RMT.py`` (the models trained
with labels of single cells, ``_label``, whose classifier reads them too) and README.md of qhfan/RMT at 32ea2141.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..vision.backbones.backbone import TokenLabelClassifier
from ..vision.backbones.hierarchical import HierarchicalBackbone
from .registry import register_model

ORIGINAL = "qhfan/RMT:VisRetNet"
SOURCE = "https://github.com/qhfan/RMT"
LABELS: Mapping[str, Any] = {"source": SOURCE, "original": ORIGINAL, "classifier": TokenLabelClassifier}
SMALL: Mapping[str, Any] = {"dims": (64, 128, 256, 512), "num_heads": (4, 4, 8, 16), "ranges": (4.0, 4.0, 6.0, 6.0)}


def _rmt(
    dims: Sequence[int],
    depths: Sequence[int],
    num_heads: Sequence[int],
    ranges: Sequence[float],
    mlp_ratios: Sequence[int],
    decomposed: int,
    layer_scale: float | None = None,
    **options: Any,
) -> HierarchicalBackbone:
    stage_options = [
        {"num_heads": heads, "decay_range": span, "decomposed": stage < decomposed}
        for stage, (heads, span) in enumerate(zip(num_heads, ranges, strict=True))
    ]
    return HierarchicalBackbone(
        "manhattan",
        dims=dims,
        depths=depths,
        mixer_options={"decay_shift": 2.0},
        stage_options=stage_options,
        stem="batch_norm",
        downsampling="batch_norm",
        mlp_ratio=[float(ratio) for ratio in mlp_ratios],
        layer_scale=[None, None, layer_scale, layer_scale],
        block_options={"mlp": "conv_after", "position_conv": True, "norm_eps": 1e-6},
        projection=1024,
        **options,
    )


@register_model(top1=82.4, millions=14, source=SOURCE, original=ORIGINAL)
def rmt_tiny(**options: Any) -> HierarchicalBackbone:
    """``RMT_T3``."""
    return _rmt(depths=(2, 2, 8, 2), mlp_ratios=(3, 3, 3, 3), decomposed=2, **SMALL, **options)


@register_model(top1=84.1, millions=27, source=SOURCE, original=ORIGINAL)
def rmt_small(**options: Any) -> HierarchicalBackbone:
    """``RMT_S``."""
    return _rmt(depths=(3, 4, 18, 4), mlp_ratios=(4, 4, 3, 3), decomposed=3, **SMALL, **options)


@register_model(top1=85.0, millions=54, source=SOURCE, original=ORIGINAL)
def rmt_base(**options: Any) -> HierarchicalBackbone:
    """``RMT_M2``."""
    dims, heads, ranges = (80, 160, 320, 512), (5, 5, 10, 16), (5.0, 5.0, 6.0, 6.0)
    return _rmt(dims, (4, 8, 25, 8), heads, ranges, (4, 4, 3, 3), 3, layer_scale=1e-6, **options)


@register_model(top1=85.5, millions=95, source=SOURCE, original=ORIGINAL)
def rmt_large(**options: Any) -> HierarchicalBackbone:
    """``RMT_L6``."""
    dims, heads, ranges = (112, 224, 448, 640), (7, 7, 14, 20), (6.0, 6.0, 6.0, 6.0)
    return _rmt(dims, (4, 8, 25, 8), heads, ranges, (4, 4, 3, 3), 3, layer_scale=1e-6, **options)


@register_model(top1=84.8, millions=27, **LABELS)
def rmt_small_label(**options: Any) -> HierarchicalBackbone:
    """``RMT_S``, trained with labels of single cells."""
    return rmt_small(**options)


@register_model(top1=85.6, millions=55, **LABELS)
def rmt_base_label(**options: Any) -> HierarchicalBackbone:
    """``RMT_M2``, trained with labels of single cells."""
    return rmt_base(**options)


@register_model(top1=86.1, millions=96, **LABELS)
def rmt_large_label(**options: Any) -> HierarchicalBackbone:
    """``RMT_L6``, trained with labels of single cells."""
    return rmt_large(**options)
