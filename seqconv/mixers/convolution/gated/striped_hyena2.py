"""StripedHyena 2: the gated convolution with a short, a medium or a long filter, as Evo 2 mixes them over its layers.

Equation::

    (x2, x1, v) = shortconv(W_in u),    w = x1 ⊙ v,    y = W_out (x2 ⊙ (h * w + D ⊙ w))

with h, by ``operator``:

* ``"short"`` (Hyena-SE): free taps, 7 by default, no D;
* ``"medium"`` (Hyena-MR): free taps, 128 by default, under an exponential window that regularises them;
* ``"long"`` (Hyena-LI): a sum of real exponentials without an end, constant state.

Taps are shared by groups of channels. The state of the first two is a window of inputs.

Source: Ku et al. 2025, "Systems and Algorithms for Convolutional Multi-Hybrid Language Models at Scale" (arXiv
2503.01868); vortex/model/{model,engine}.py of Zymrael/vortex (commit cb229ae5) and savanna/model/operators/hyena of
Zymrael/savanna (commit 0d42c604). Published: at 40B parameters 1.2 to 2.9 times faster training than a Transformer, 1.1
to 1.4 times than earlier hybrids (abstract). After prompts shorter than its filters vortex decodes with the wrong taps;
steps here are the convolution whatever the prompt's length.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from seqconv_kernels._core.errors import unknown_name

from ....convolution.long_convolution import LongConvolution
from ....convolution.window import WindowConvolution
from ....filters.explicit.taps import TapsFilter
from ....filters.state_space.real_modal import FactoredModalFilter, RealModalFilter
from ....layers.linear import Linear
from ....mixer import Mixer
from ....packing import zero_padding
from ....registry import register
from ....state import State
from ....types import StateKind
from .gated_convolution import GatedConvolution
from .hyena import HyenaState

WIDTHS = {"short": 7, "medium": 128}
"""Taps of the operators that are windows."""

OPERATORS = (*WIDTHS, "long")


@register(
    "striped_hyena2",
    examples=(
        {"operator": "short", "groups": 4, "d_conv": 4},
        {"operator": "medium", "width": 20, "groups": 2, "decay": "weak"},
        {"operator": "long", "d_state": 3, "factored": False, "conv_bias": True},
    ),
)
class StripedHyena2(Mixer):
    """Gated convolution with a short explicit, a medium regularised or a long implicit filter.

    Args:
        d_model: width of inputs and outputs.
        operator: ``"short"``, ``"medium"`` or ``"long"``.
        width: taps of a short or medium filter; 7 or 128 by default.
        groups: sets of taps of a short or medium filter, each for ``d_model / groups`` channels; one per channel if
            ``None``.
        decay: window of a medium filter, ``"strong"``, ``"normal"``, ``"weak"`` or ``None``.
        d_state: poles of a long filter.
        factored: train poles and residues of a long filter as products of four factors.
        d_conv: taps of the short convolution.
        conv_bias, in_proj_bias, out_proj_bias: whether the short convolution, W_in and W_out have biases.

    Raises:
        ValueError: an unknown operator or decay, sizes that do not fit.
    """

    def __init__(
        self,
        d_model: int,
        *,
        operator: str = "long",
        width: int | None = None,
        groups: int | None = None,
        decay: str | None = "strong",
        d_state: int = 16,
        factored: bool = True,
        d_conv: int = 3,
        conv_bias: bool = False,
        in_proj_bias: bool = False,
        out_proj_bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        self.in_proj = Linear(d_model, 3 * d_model, bias=in_proj_bias)
        make = make_operator(
            d_model, operator, width=width, groups=groups, decay=decay, d_state=d_state, factored=factored
        )
        self.gated_conv = GatedConvolution(d_model, make, d_conv=d_conv, conv_bias=conv_bias, skip=operator != "short")
        self.out_proj = Linear(d_model, d_model, bias=out_proj_bias)

    @property
    def state_kind(self) -> StateKind:
        """A window of inputs, or constant with a long filter."""
        return self.gated_conv.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.out_proj(self.gated_conv(zero_padding(self.in_proj(x), mask), mask=mask))
        return y

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.gated_conv.init_state(batch_size, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, after = self.gated_conv(zero_padding(self.in_proj(x), mask), cast(HyenaState, state), mask=mask)
        return self.out_proj(y), after

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self.gated_conv(self.in_proj(x_t), cast(HyenaState, state))
        return self.out_proj(y), after


def make_operator(
    channels: int,
    operator: str,
    *,
    width: int | None = None,
    groups: int | None = None,
    decay: str | None = None,
    d_state: int = 16,
    factored: bool = False,
) -> Callable[[], LongConvolution | WindowConvolution]:
    """Makes the convolution between the gates; arguments as those of :class:`StripedHyena2`.

    Raises:
        ValueError: an unknown operator.
    """
    if operator not in OPERATORS:
        raise unknown_name("striped_hyena2 mixer", "operator", operator, OPERATORS)
    if operator == "long":
        kind = FactoredModalFilter if factored else RealModalFilter
        return lambda: LongConvolution(kind(channels, d_state=d_state))
    window, regular = decay if operator == "medium" else None, operator == "medium"
    taps = WIDTHS[operator] if width is None else width
    return lambda: WindowConvolution(
        TapsFilter(channels, width=taps, groups=groups, decay=window, small_init=regular and window is not None)
    )
