"""RTF: convolution with rational transfer functions, in S4's layer (Parnichkun et al. 2024, arXiv 2405.06147).

``y = GLU(W GELU(h * x + D ⊙ x) + b)`` with h of :class:`~seqconv.filters.state_space.rtf.RTFFilter`. The response needs
one division of spectra whatever the state's size; decoding keeps ``d_state + 1`` numbers per channel. Published: 35 %
faster training than S4 on Long Range Arena on average (abstract).
"""

from typing import Annotated, Unpack

from ...filters.state_space.rtf import RTFFilter, RTFFilterOptions
from ...options import Default, select_options, with_defaults
from ...registry import register
from .s4_layer import S4Layer, S4LayerOptions


class RTFOptions(RTFFilterOptions, S4LayerOptions, total=False):
    """Options of the filter (:class:`~seqconv.filters.state_space.rtf.RTFFilterOptions`) and of the layer around it.

    Attributes:
        l_max: taps over which the transfer function is sampled; longer sequences go on as the recurrence does.
    """

    l_max: Annotated[int, Default(1024)]


@register(
    "rtf",
    examples=(
        {"d_state": 4, "l_max": 64, "init": "montel", "channels": 2},
        {"d_state": 6, "l_max": 33, "init": "montel", "denominators": 4},
        {"d_state": 4, "l_max": 40, "init": "montel", "bidirectional": True},
    ),
)
class RTF(S4Layer):
    """Rational transfer functions: long convolution without a state in training, constant state in decoding.

    Args:
        d_model: width of inputs and outputs.
        **options: see :class:`RTFOptions`, :class:`~seqconv.filters.state_space.rtf.RTFFilterOptions` and
            :class:`~seqconv.mixers.state_space.s4_layer.S4LayerOptions`.

    Raises:
        ValueError: as those classes.
    """

    def __init__(self, d_model: int, **options: Unpack[RTFOptions]) -> None:
        o = with_defaults(RTFOptions, options, self.name)
        filter, layer = select_options(RTFFilterOptions, o), select_options(S4LayerOptions, o)

        def make_filter(features: int, heads: int) -> RTFFilter:
            return RTFFilter(features * heads, l_max=o["l_max"], **filter)

        super().__init__(d_model, make_filter, **layer)
