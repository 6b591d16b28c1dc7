"""S4: convolution with the impulse response of a structured state space (Gu et al., 2022, arXiv 2111.00396)."""

from typing import Unpack

from ...filters.state_space.s4 import S4Filter, S4FilterOptions
from ...options import select_options, with_defaults
from ...registry import register
from .s4_layer import S4Layer, S4LayerOptions


class S4Options(S4FilterOptions, S4LayerOptions, total=False):
    """Options of the filter (:class:`S4FilterOptions`) and of the layer around it."""


@register(
    "s4",
    examples=(
        {"bidirectional": True, "d_state": 8, "l_max": 16},
        {"channels": 2, "init": "legt", "rank": 2, "d_state": 6, "l_max": 37, "n_ssm": 4},
        {"disc": "zoh", "init": "hippo", "d_state": 8, "l_max": None},
        {"d_state": 4, "l_max": 12, "truncation": 12},
    ),
)
class S4(S4Layer):
    """S4: long convolution with a diagonal plus low-rank state space (HiPPO), constant state in decoding.

    Args:
        d_model: width.
        disc ... B_clip: options of the filter, see :class:`S4FilterOptions`.
        activation ... truncation: options of the layer, see :class:`~.s4_layer.S4LayerOptions`.

    Raises:
        ValueError: as those classes.
    """

    def __init__(self, d_model: int, **options: Unpack[S4Options]) -> None:
        o = with_defaults(S4Options, options, self.name)
        filter, layer = select_options(S4FilterOptions, o), select_options(S4LayerOptions, o)
        super().__init__(d_model, lambda features, heads: S4Filter(features, heads=heads, **filter), **layer)
