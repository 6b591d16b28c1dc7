"""Hyena with modal filters: order 2, and a constant state from the start.

Equation::

    (x2, x1, v) = shortconv(W_in u)                  causal, depthwise, with bias
    w = x1 ⊙ v
    y = W_out (x2 ⊙ (h * w + D ⊙ w)),                h[t] = Re(sum_n residues_n poles_n^t), t >= 0

and the same in steps with ``s_t = poles s_{t-1} + w_t`` instead of the convolution: ``Re(sum_n residues_n s_t)``.

Source: ``ParallelGatedConvBlock`` and ``ParallelHyenaFilter`` in stripedhyena/model.py of togethercomputer/stripedhyena
(commit 7e13f618); Massaroli et al. 2023 (arXiv 2310.18780) for the modal form. The original's prefill by a recurrence
in real arithmetic overwrites the real part of the state before the imaginary part has used it; a prefill here gives the
state that steps would have given.
"""

import torch
from torch import Tensor

from ....convolution.long_convolution import LongConvolution
from ....filters.base import Filter
from ....filters.state_space.pole_residue import PoleResidueFilter
from ....filters.wrappers import TruncatedFilter
from ....layers.linear import Linear
from ....mixer import Mixer
from ....packing import zero_padding
from ....registry import register
from ....state import State
from ....types import StateKind
from .gated_convolution import GatedConvolution


class GatedModalConvolution(GatedConvolution):
    """The operator between the projections: short convolution, gate, modal convolution, gate.

    Args:
        channels: width of each of x2, x1 and v.
        d_state, n_ssm: as in :class:`~seqconv.filters.state_space.pole_residue.PoleResidueFilter`.
        d_conv: taps of the short convolution.
        heads: the inputs are laid out head after head, x2, x1 and v of a head together; 1 is x2, x1, v.
        l_max: taps of the filter in the parallel form; ``None``: no end. The recurrence has no end in any case, so
            that the forms agree up to this length only.

    Raises:
        ValueError: heads or systems that do not divide the channels, sizes below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        d_state: int = 8,
        n_ssm: int | None = None,
        d_conv: int = 3,
        heads: int = 1,
        l_max: int | None = None,
    ) -> None:
        def make_convolution() -> LongConvolution:
            filter: Filter = PoleResidueFilter(channels, d_state=d_state, n_ssm=n_ssm)
            return LongConvolution(filter if l_max is None else TruncatedFilter(filter, l_max, untruncated_steps=True))

        super().__init__(channels, make_convolution, d_conv=d_conv, heads=heads)


@register(
    "striped_hyena",
    examples=(
        {"d_state": 2, "d_conv": 4},
        {"n_ssm": 2, "in_proj_bias": False},
        {"n_ssm": 1, "d_state": 3, "d_conv": 1},
    ),
)
class StripedHyena(Mixer):
    """Hyena with modal filters, whose state is constant.

    Args:
        d_model: width of inputs and outputs.
        d_state: poles of each system.
        n_ssm: systems of poles and residues, each for ``d_model/n_ssm`` channels; one per channel if ``None``.
        d_conv: taps of the short convolution.
        in_proj_bias: whether W_in has a bias.
        l_max: taps in the parallel form, see :class:`GatedModalConvolution`.

    Raises:
        ValueError: systems that do not divide the width, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 8,
        n_ssm: int | None = None,
        d_conv: int = 3,
        in_proj_bias: bool = True,
        l_max: int | None = None,
    ) -> None:
        super().__init__(d_model)
        self.in_proj = Linear(d_model, 3 * d_model, bias=in_proj_bias)
        self.gated_conv = GatedModalConvolution(d_model, d_state=d_state, n_ssm=n_ssm, d_conv=d_conv, l_max=l_max)
        self.out_proj = Linear(d_model, d_model)

    @property
    def state_kind(self) -> StateKind:
        """Constant, whatever the options."""
        return self.gated_conv.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.out_proj(self.gated_conv(zero_padding(self.in_proj(x), mask), mask=mask))
        return y

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.gated_conv.init_state(batch_size, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        y, state = self.gated_conv(zero_padding(self.in_proj(x), mask), state, mask=mask)
        return self.out_proj(y), state

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.gated_conv(self.in_proj(x_t), state)
        return self.out_proj(y), state
