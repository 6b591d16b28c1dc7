"""S4D: convolution with the impulse response of a diagonal state space (Gu et al., 2022, arXiv 2206.11893)."""

from typing import Unpack

from ...filters.state_space.s4d import S4DFilter, S4DFilterOptions
from ...options import select_options, with_defaults
from ...registry import register
from .s4_layer import S4Layer, S4LayerOptions


class S4DOptions(S4DFilterOptions, S4LayerOptions, total=False):
    """Options of the filter (:class:`S4DFilterOptions`) and of the layer around it."""


@register(
    "s4d",
    examples=(
        {"bidirectional": True, "d_state": 8},
        {"channels": 2, "swap_channels": True, "disc": "bilinear", "init": "inv", "n_ssm": 2, "d_state": 6},
        {"is_real": True, "init": "real", "d_state": 4, "gate": 2, "gate_activation": "silu", "bottleneck": 2},
        {
            "disc": "dss",
            "dss_length": 32,
            "d_state": 8,
            "activation": "glu",
            "final_activation": "relu",
            "weight_norm": True,
        },
        {"d_state": 4, "truncation": 9},
    ),
)
class S4D(S4Layer):
    """S4D: long convolution with a diagonal state space, constant state in decoding.

    Args:
        d_model: width.
        disc ... B_clip: options of the filter, see :class:`S4DFilterOptions`.
        activation ... truncation: options of the layer, see :class:`~.s4_layer.S4LayerOptions`.

    Raises:
        ValueError: as those classes.
    """

    def __init__(self, d_model: int, **options: Unpack[S4DOptions]) -> None:
        o = with_defaults(S4DOptions, options, self.name)
        filter, layer = select_options(S4DFilterOptions, o), select_options(S4LayerOptions, o)
        super().__init__(d_model, lambda features, heads: S4DFilter(features, heads=heads, **filter), **layer)
