"""LongConv: a convolution whose taps are all parameters, regularised by a soft threshold.

Equation: ``y = GLU(W GELU(h * x + D ⊙ x) + b)`` with ``h`` the squashed and perhaps smoothed taps of
:class:`~seqconv.filters.explicit.longconv.LongConvFilter`; the layer around the filter is S4's. If ``bidirectional``,
as many taps again reach into the future from lag 1 on.

Where a sequence is shorter than ``l_max`` the original lets the taps beyond it wrap around, so that outputs depend on
later inputs; here they are cut.

Source: Fu et al. 2023, "Simple Hardware-Efficient Long Convolutions for Sequence Modeling" (arXiv 2302.06646), and
src/models/sequence/long_conv.py of HazyResearch/safari (commit 02220c69). Published: Long Range Arena 86.6 on average,
and 29.1 points above earlier work on Path256, 65,536 tokens (abstract and README).
"""

from typing import Annotated, Unpack

from ...filters.explicit.longconv import LongConvFilter, LongConvFilterOptions
from ...layers.residual import Dropout
from ...options import Default, select_options, with_defaults
from ...registry import register
from ..state_space.s4_layer import S4Layer, S4LayerOptions


class LongConvOptions(LongConvFilterOptions, S4LayerOptions, total=False):
    """Options of the filter (:class:`~seqconv.filters.explicit.longconv.LongConvFilterOptions`) and of the layer.

    Attributes:
        l_max: number of taps; longer sequences are mixed within this window.
    """

    l_max: Annotated[int, Default(1024)]


@register(
    "longconv",
    examples=(
        {"l_max": 24, "threshold": 0.004, "smoothing": "average", "smoothing_width": 3, "channels": 2},
        {"l_max": 31, "smoothing": "frequency", "init": "random", "threshold": 0.0},
        {"l_max": 40, "bidirectional": True},
    ),
)
class LongConv(S4Layer):
    """Long convolution with explicit taps, a soft threshold on them and S4's layer around it.

    Args:
        d_model: width of inputs and outputs.
        **options: see :class:`LongConvOptions`, :class:`~seqconv.filters.explicit.longconv.LongConvFilterOptions` and
            :class:`~seqconv.mixers.state_space.s4_layer.S4LayerOptions`.

    Raises:
        ValueError: as those classes.
    """

    def __init__(self, d_model: int, **options: Unpack[LongConvOptions]) -> None:
        o = with_defaults(LongConvOptions, options, self.name)
        filter, layer = select_options(LongConvFilterOptions, o), select_options(S4LayerOptions, o)

        def make_filter(features: int, heads: int) -> LongConvFilter:
            return LongConvFilter(features, heads=heads, l_max=o["l_max"], **filter)

        super().__init__(d_model, make_filter, **layer)
        self.conv_dropout = Dropout(0.0)  # S4 drops before its activation too, LongConv after it alone
