"""The gated convolution of StripedHyena: a short convolution, a gate, another convolution, a gate.

Equation: ``(x2, x1, v) = shortconv(u)``, ``w = x1 ⊙ v``, ``y = x2 ⊙ (h * w + D ⊙ w)``.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....convolution.long_convolution import LongConvolution
from ....convolution.window import WindowConvolution
from ....layers.short_convolution import ShortConvolution
from ....packing import zero_padding
from ....parameters import set_optimizer_options
from .hyena import HyenaState


class GatedConvolution(nn.Module):
    """The operator between the projections.

    Args:
        channels: width of each of x2, x1 and v.
        make_convolution: makes the convolution between the gates.
        d_conv: taps of the short convolution.
        conv_bias: whether the short convolution has a bias.
        skip: whether D acts.
        heads: the inputs are laid out head after head, x2, x1 and v of a head together; 1 is x2, x1, v.
        interleave: the inputs are laid out channel by channel, three numbers each, before the heads are split.
        flip_gates: x1 comes before x2.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    def __init__(
        self,
        channels: int,
        make_convolution: Callable[[], LongConvolution | WindowConvolution],
        *,
        d_conv: int = 3,
        conv_bias: bool = True,
        skip: bool = True,
        heads: int = 1,
        interleave: bool = False,
        flip_gates: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            got = f"heads={heads}"
            raise argument_error(type(self).__name__, got, f"a divisor of channels={channels}", "change the heads")
        self.heads, self.interleave, self.flip_gates = heads, interleave, flip_gates
        self.short_conv = ShortConvolution(3 * channels, d_conv, bias=conv_bias, activation=None)
        self.convolution = make_convolution()
        self.D = nn.Parameter(torch.empty(channels)) if skip else None
        if skip:
            set_optimizer_options(self, "D", weight_decay=0.0)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the skips to zero."""
        if self.D is not None:
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

    def init_state(
        self, batch_size: int, device: torch.device, dtype: torch.dtype, max_length: int | None = None
    ) -> HyenaState:
        """The state before the first token: the last inputs, and the state of the convolution."""
        short = self.short_conv.init_state(batch_size, device, dtype)
        return HyenaState(short, (self.convolution.init_state(batch_size, max_length),))

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
        """x2, x1 and v."""
        if self.interleave:
            mixed = mixed.unflatten(-1, (-1, 3)).transpose(-1, -2).flatten(-2)
        x2, x1, v = (part.flatten(-2) for part in mixed.unflatten(-1, (self.heads, 3, -1)).unbind(-2))
        return (x1, x2, v) if self.flip_gates else (x2, x1, v)
