"""M2-BERT's sequence mixer: a gated long convolution with the past and the future, and a second one around it.

Equation::

    (x1, x2, v) = shortconv(W_in u),    y = W_out (x2 ⊙ (h * w + D ⊙ w) + g * u + E ⊙ u)   with  w = x1 ⊙ v

h and g have implicit filters (:class:`~seqconv.filters.implicit.hyena.HyenaFilter`), which reach into the future too
from lag 1 on if ``bidirectional``, by a network of its own. The short convolution is causal in every case. The mixing
along the channels of the same architecture is an MLP of block-diagonal matrices and is no part of this.

Source: Fu et al. 2023, "Monarch Mixer: A Simple Sub-Quadratic GEMM-Based Architecture" (arXiv 2310.12109);
bert/src/mm/monarch_mixer_sequence_mixer.py and hyena_utils.py of HazyResearch/m2 (commit 7d359e8c). Published:
BERT-base quality on GLUE with 27 % fewer parameters (abstract).
"""

from typing import Unpack

import torch
from torch import Tensor, nn

from ....convolution.long_convolution import LongConvolution
from ....filters.implicit.hyena import HyenaFilter, HyenaFilterOptions
from ....layers.linear import Linear
from ....layers.short_convolution import ShortConvolution
from ....mixer import Mixer
from ....packing import zero_padding
from ....parameters import set_optimizer_options
from ....registry import register
from ....state import State
from ....types import StateKind
from .hyena import HyenaState


@register(
    "m2_bert",
    examples=(
        {"l_max": 50, "filter_order": 6, "w": 2.0},
        {"l_max": 40, "filter_order": 6, "bidirectional": False, "d_conv": 4},
        {"l_max": 64, "filter_order": 6, "residual": False},
    ),
)
class M2BERT(Mixer):
    """Gated long convolution of M2-BERT, bidirectional by default.

    Args:
        d_model: width of inputs and outputs.
        l_max: taps of the long filters; longer sequences are mixed within this window.
        bidirectional: filters that reach into the future too.
        residual: the second long convolution.
        d_conv: taps of the short convolution.
        **filter: see :class:`~seqconv.filters.implicit.hyena.HyenaFilterOptions`.

    Raises:
        ValueError: as the filter.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int = 1024,
        bidirectional: bool = True,
        residual: bool = True,
        d_conv: int = 3,
        **filter: Unpack[HyenaFilterOptions],
    ) -> None:
        super().__init__(d_model, causal=not bidirectional)
        self.in_proj = Linear(d_model, 3 * d_model)
        self.short_conv = ShortConvolution(3 * d_model, d_conv, activation=None)
        sides = 2 if bidirectional else 1

        def make_convolution() -> LongConvolution:
            long_filter = HyenaFilter(sides * d_model, l_max=l_max, groups=sides, two_networks=bidirectional, **filter)
            return LongConvolution(long_filter, two_sided=bidirectional)

        self.convolution = make_convolution()
        self.residual_convolution = make_convolution() if residual else None
        self.D = nn.Parameter(torch.empty(d_model))
        self.residual_D = nn.Parameter(torch.empty(d_model)) if residual else None
        set_optimizer_options(self, *("D", "residual_D")[: 1 + residual], weight_decay=0.0)
        self.out_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the skips from N(0, 1)."""
        for skip in (self.D, self.residual_D):
            if skip is not None:
                nn.init.normal_(skip)

    @property
    def state_kind(self) -> StateKind:
        """That of the long convolutions; none if bidirectional."""
        return self.convolution.state_kind

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mixed, _ = self.short_conv(zero_padding(self.in_proj(x), mask))
        x1, x2, v = zero_padding(mixed, mask).chunk(3, dim=-1)
        y = x2 * self.convolution(x1 * v, skip=self.D)
        if self.residual_convolution is not None:
            y = y + self.residual_convolution(x, skip=self.residual_D)
        out: Tensor = self.out_proj(y)
        return out

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        both = (self.convolution, self.residual_convolution)
        long = tuple(part.init_state(batch_size, max_length) for part in both if part is not None)
        return HyenaState(self.short_conv.init_state(batch_size, device, dtype), long)

    def _prefill(self, x: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        assert isinstance(state, HyenaState)
        mixed, short = self.short_conv(zero_padding(self.in_proj(x), mask), state.short)
        return self._continue(x, zero_padding(mixed, mask), short, state)

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, HyenaState)
        mixed, short = self.short_conv.step(self.in_proj(x_t), state.short)
        return self._continue(x_t, mixed, short, state)

    def _continue(self, x: Tensor, mixed: Tensor, short: Tensor, state: HyenaState) -> tuple[Tensor, State]:
        """What follows the short convolution, for any number of tokens or for one."""

        def run(convolution: LongConvolution, u: Tensor, long: State, skip: Tensor | None) -> tuple[Tensor, State]:
            return (convolution.step if x.dim() == 2 else convolution.prefill)(u, long, skip=skip)

        x1, x2, v = mixed.chunk(3, dim=-1)
        y, after = run(self.convolution, x1 * v, state.long[0], self.D)
        y, long = x2 * y, [after]
        if self.residual_convolution is not None:
            around, other = run(self.residual_convolution, x, state.long[1], self.residual_D)
            y, long = y + around, [*long, other]
        return self.out_proj(y), HyenaState(short, tuple(long))
