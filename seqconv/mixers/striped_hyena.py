"""Hyena with modal filters: order 2, and a constant state from the start.

Equation::

    (x2, x1, v) = shortconv(W_in u)                  causal, depthwise, with bias
    w = x1 ⊙ v
    y = W_out (x2 ⊙ (h * w + D ⊙ w)),                h[t] = Re(sum_n residues_n poles_n^t), t >= 0

and the same by steps with ``s_t = poles s_{t-1} + w_t`` in the place of the convolution: ``Re(sum_n residues_n s_t)``.

Source: ``ParallelGatedConvBlock`` and ``ParallelHyenaFilter`` of togethercomputer/stripedhyena; Massaroli et al. 2023
(arXiv 2310.18780) for the modal form. The original's prefill by a recurrence in real arithmetic overwrites the real
part of the state before the imaginary part has used it; a prefill here gives the state that steps would have given.
"""

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ..convolution.long_convolution import LongConvolution
from ..filters.base import Filter
from ..filters.pole_residue import PoleResidueFilter
from ..filters.wrappers import TruncatedFilter
from ..layers.short_convolution import ShortConvolution
from ..mixer import Mixer
from ..packing import zero_padding
from ..registry import register
from ..state import State
from ..types import StateKind
from .hyena import HyenaState


class GatedModalConvolution(nn.Module):
    """What stands between the projections: short convolution, gate, modal convolution, gate.

    Args:
        channels: width of each of x2, x1 and v.
        d_state, systems: as in :class:`~seqconv.filters.pole_residue.PoleResidueFilter`.
        short_filter_order: taps of the short convolution.
        heads: the inputs are laid out head after head, x2, x1 and v of a head together; 1 is x2, x1, v.
        l_max: taps of the filter in the parallel form; ``None``: no end. The recurrence has no end in any case, so
            that the forms agree up to this length only, as in the original (``long_fir_threshold``).

    Raises:
        ValueError: heads or systems that do not divide the channels, sizes below 1.
    """

    def __init__(
        self,
        channels: int,
        *,
        d_state: int = 8,
        systems: int | None = None,
        short_filter_order: int = 3,
        heads: int = 1,
        l_max: int | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            got = f"heads={heads}"
            raise argument_error("GatedModalConvolution", got, f"a divisor of channels={channels}", "change the heads")
        self.heads = heads
        self.short = ShortConvolution(3 * channels, short_filter_order, activation=None)
        filter: Filter = PoleResidueFilter(channels, d_state=d_state, systems=systems)
        filter = filter if l_max is None else TruncatedFilter(filter, l_max, untruncated_steps=True)
        self.convolution = LongConvolution(filter)
        self.skip = nn.Parameter(torch.zeros(channels))

    def forward(
        self, u: Float[Tensor, "batch length inputs"], *, mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length channels"]:
        """All tokens in parallel; inputs at padding must be zero, outputs there mean nothing."""
        x2, x1, v = self._split(zero_padding(self.short(u)[0], mask))
        return x2 * cast(Tensor, self.convolution(x1 * v, skip=self.skip))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> HyenaState:
        """The state before the first token: the last inputs, and the hidden state of the modes."""
        short = self.short.init_state(batch_size, device, dtype)
        return HyenaState(short, self.convolution.init_states(batch_size))

    def prefill(
        self,
        u: Float[Tensor, "batch length inputs"],
        state: HyenaState,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length channels"], HyenaState]:
        """Any number of tokens from ``state``; padding, which must be zero, leads its row."""
        mixed, short = self.short(u, state.short)
        x2, x1, v = self._split(zero_padding(mixed, mask))
        y, long = self.convolution.prefill(x1 * v, state.long[0], skip=self.skip)
        return x2 * y, HyenaState(short, (long,))

    def step(
        self, u_t: Float[Tensor, "batch inputs"], state: HyenaState
    ) -> tuple[Float[Tensor, "batch channels"], HyenaState]:
        """One token from ``state``."""
        mixed, short = self.short.step(u_t, state.short)
        x2, x1, v = self._split(mixed)
        y, long = self.convolution.step(x1 * v, state.long[0], skip=self.skip)
        return x2 * y, HyenaState(short, (long,))

    def _split(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x2, x1, v = mixed.unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        return x2.flatten(-2), x1.flatten(-2), v.flatten(-2)


@register(
    "striped_hyena",
    examples=(
        {"d_state": 2, "short_filter_order": 4},
        {"systems": 2, "projection_bias": False},
        {"systems": 1, "d_state": 3, "short_filter_order": 1},
    ),
)
class StripedHyena(Mixer):
    """Hyena with modal filters, whose state is constant.

    Args:
        d_model: width of inputs and outputs.
        d_state: poles of each system.
        systems: systems of poles and residues, each for ``d_model/systems`` channels; one per channel if ``None``.
        short_filter_order: taps of the short convolution.
        projection_bias: whether W_in has a bias.
        l_max: taps in the parallel form, see :class:`GatedModalConvolution`.

    Raises:
        ValueError: systems that do not divide the width, sizes below 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 8,
        systems: int | None = None,
        short_filter_order: int = 3,
        projection_bias: bool = True,
        l_max: int | None = None,
    ) -> None:
        super().__init__(d_model)
        self.input = nn.Linear(d_model, 3 * d_model, bias=projection_bias)
        self.inner = GatedModalConvolution(
            d_model, d_state=d_state, systems=systems, short_filter_order=short_filter_order, l_max=l_max
        )
        self.output = nn.Linear(d_model, d_model)

    @property
    def state_kind(self) -> StateKind:
        """Constant, whatever the options."""
        return self.inner.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.output(self.inner(zero_padding(self.input(x), mask), mask=mask))
        return y

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return self.inner.init_state(batch_size, device, dtype)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, HyenaState)
        y, state = self.inner.prefill(zero_padding(self.input(x), mask), state, mask=mask)
        return self.output(y), state

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, HyenaState)
        y, state = self.inner.step(self.input(x_t), state)
        return self.output(y), state
