"""Vision-LSTM (Alkin et al. 2024, arXiv 2406.04303), second version: mLSTM blocks in alternating directions.

Sizes and figures: ``hubconf.py`` and README.md of NX-AI/vision-lstm at 381ba95c. The original
counts pairs of blocks.
"""

from typing import Any

from ..vision.backbones.plain_2d import PlainBackbone2d
from .registry import register_model

ORIGINAL = "NX-AI/vision-lstm:VisionLSTM2"
SOURCE = "https://github.com/NX-AI/vision-lstm"
DEPTH = 24


def _vil(d_model: int, **options: Any) -> PlainBackbone2d:
    directions = [{"order": "row"}, {"order": "row_reversed"}]
    return PlainBackbone2d(
        "vision_lstm",
        d_model=d_model,
        depth=DEPTH,
        layer_options=directions,
        pooling="ends",
        pooled_norm=True,
        **options,
    )


@register_model(top1=78.3, millions=6, source=SOURCE, original=ORIGINAL)
def vil_tiny(**options: Any) -> PlainBackbone2d:
    """192 wide."""
    return _vil(192, **options)


@register_model(top1=81.5, millions=23, source=SOURCE, original=ORIGINAL)
def vil_small(**options: Any) -> PlainBackbone2d:
    """384 wide."""
    return _vil(384, **options)


@register_model(top1=82.4, millions=89, source=SOURCE, original=ORIGINAL)
def vil_base(**options: Any) -> PlainBackbone2d:
    """768 wide."""
    return _vil(768, **options)
