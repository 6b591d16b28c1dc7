"""Vision Mamba (Zhu et al. 2024, arXiv 2401.09417): the bidirectional block on patches of 16 pixels, 24 layers.

The models ``…_plus`` were trained on with a patch at every eighth pixel ("at finer granularity"). Sizes and figures:
README.md and ``vim/models_mamba.py`` of hustvl/Vim at dd0358a.
"""

from typing import Any

from ...vision.backbones.plain import PlainBackbone
from ..registry import register_model

ORIGINAL = "hustvl/Vim:VisionMamba"
SOURCE = "https://github.com/hustvl/Vim"
DEPTH, FINE_STRIDE = 24, 8


def _vim(d_model: int, **options: Any) -> PlainBackbone:
    return PlainBackbone("vim", d_model=d_model, depth=DEPTH, **options)


@register_model(top1=76.1, millions=7, source=SOURCE, original=ORIGINAL)
def vim_tiny(**options: Any) -> PlainBackbone:
    """192 wide."""
    return _vim(192, **options)


@register_model(top1=78.3, millions=7, source=SOURCE, original=ORIGINAL)
def vim_tiny_plus(**options: Any) -> PlainBackbone:
    """192 wide, overlapping patches."""
    return _vim(192, **{"stride": FINE_STRIDE} | options)


@register_model(top1=80.5, millions=26, source=SOURCE, original=ORIGINAL)
def vim_small(**options: Any) -> PlainBackbone:
    """384 wide."""
    return _vim(384, **options)


@register_model(top1=81.6, millions=26, source=SOURCE, original=ORIGINAL)
def vim_small_plus(**options: Any) -> PlainBackbone:
    """384 wide, overlapping patches."""
    return _vim(384, **{"stride": FINE_STRIDE} | options)


@register_model(top1=81.9, millions=98, source=SOURCE, original=ORIGINAL)
def vim_base(**options: Any) -> PlainBackbone:
    """768 wide."""
    return _vim(768, **options)
