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

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...convolution.long_convolution import LongConvolution
from ...filters.base import Filter
from ...filters.state_space.pole_residue import PoleResidueFilter
from ...filters.wrappers import TruncatedFilter
from ...layers.short_convolution import ShortConvolution
from ...mixer import Mixer
from ...packing import zero_padding
from ...parameters import set_optimizer_options
from ...registry import register
from ...state import State
from ...types import StateKind
from .hyena import HyenaState


class GatedModalConvolution(nn.Module):
    """The operator between the projections: short convolution, gate, modal convolution, gate.

    Args:
        channels: width of each of x2, x1 and v.
        d_state, n_ssm: as in :class:`~seqconv.filters.state_space.pole_residue.PoleResidueFilter`.
        d_conv: taps of the short convolution.
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
        n_ssm: int | None = None,
        d_conv: int = 3,
        heads: int = 1,
        l_max: int | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            got = f"heads={heads}"
            raise argument_error("GatedModalConvolution", got, f"a divisor of channels={channels}", "change the heads")
        self.heads = heads
        self.short_conv = ShortConvolution(3 * channels, d_conv, activation=None)
        filter: Filter = PoleResidueFilter(channels, d_state=d_state, n_ssm=n_ssm)
        filter = filter if l_max is None else TruncatedFilter(filter, l_max, untruncated_steps=True)
        self.convolution = LongConvolution(filter)
        self.D = nn.Parameter(torch.empty(channels))
        set_optimizer_options(self, "D", weight_decay=0.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the skips to zero."""
        nn.init.zeros_(self.D)

    def forward(
        self,
        u: Float[Tensor, "batch *length inputs"],
        state: HyenaState | None = None,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Any:
        """All tokens in parallel; with a state (y, state): any number of tokens, or one of shape (batch, inputs).

        Inputs at padding must be zero, outputs there mean nothing; with a state, padding leads its row.
        """
        if u.dim() == 2:
            assert state is not None
            return self._step(u, state)
        mixed, short = self.short_conv(u, None if state is None else state.short)
        x2, x1, v = self._split(zero_padding(mixed, mask))
        if state is None:
            return x2 * cast(Tensor, self.convolution(x1 * v, skip=self.D))
        y, long = self.convolution.prefill(x1 * v, state.long[0], skip=self.D)
        return x2 * y, HyenaState(short, (long,))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> HyenaState:
        """The state before the first token: the last inputs, and the hidden state of the modes."""
        short = self.short_conv.init_state(batch_size, device, dtype)
        return HyenaState(short, self.convolution.init_states(batch_size))

    def prefill(
        self,
        u: Float[Tensor, "batch length inputs"],
        state: HyenaState,
        *,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length channels"], HyenaState]:
        """Any number of tokens from ``state``; padding, which must be zero, leads its row."""
        return cast(tuple[Tensor, HyenaState], self(u, state, mask=mask))

    def step(
        self, u_t: Float[Tensor, "batch inputs"], state: HyenaState
    ) -> tuple[Float[Tensor, "batch channels"], HyenaState]:
        """One token from ``state``."""
        return cast(tuple[Tensor, HyenaState], self(u_t, state))

    def _step(self, u_t: Tensor, state: HyenaState) -> tuple[Tensor, HyenaState]:
        mixed, short = self.short_conv.step(u_t, state.short)
        x2, x1, v = self._split(mixed)
        y, long = self.convolution.step(x1 * v, state.long[0], skip=self.D)
        return x2 * y, HyenaState(short, (long,))

    def _split(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x2, x1, v = mixed.unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        return x2.flatten(-2), x1.flatten(-2), v.flatten(-2)


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
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=in_proj_bias)
        self.gated_conv = GatedModalConvolution(d_model, d_state=d_state, n_ssm=n_ssm, d_conv=d_conv, l_max=l_max)
        self.out_proj = nn.Linear(d_model, d_model)

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
