"""The gated short convolution of LFM2: two multiplicative gates around a causal depthwise convolution of few taps.

Equation, per channel, with K taps ``w`` whose last one meets the current token, and no activation anywhere::

    [b | c | u] = W_in x            z = b ⊙ u
    y = W_out (c ⊙ (w * z + bias))

Source: Liquid AI 2025 (LFM2 technical report, arXiv 2511.23404) and ``Lfm2ShortConv`` of transformers 5.23.0
(``models/lfm2/modeling_lfm2.py``). LFM2 stacks such blocks with a few layers of grouped-query attention and has up to
twice the prefill and decoding speed of models of its size on CPUs (abstract of the report). The state is the last
``K - 1`` values of ``z``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ....layers.linear import Linear
from ....layers.short_convolution import ShortConvolution
from ....mixer import ScanMixer
from ....packing import zero_padding
from ....registry import register
from ....state import State, state_class


@state_class
class GatedShortConvState(State):
    """The last gated inputs of the convolution, oldest first."""

    conv: Float[Tensor, "batch reach d_model"]


@register("gated_short_conv", examples=({"bias": True, "d_conv": 4}, {"d_conv": 2}))
class GatedShortConv(ScanMixer[GatedShortConvState]):
    """Short causal convolution between two multiplicative gates (LFM2).

    Args:
        d_model: width of inputs and outputs.
        d_conv: taps of the convolution.
        bias: whether the projections and the convolution have biases.

    Raises:
        ValueError: no tap.
    """

    def __init__(self, d_model: int, *, d_conv: int = 3, bias: bool = False) -> None:
        super().__init__(d_model)
        self.in_proj = Linear(d_model, 3 * d_model, bias=bias)
        self.conv1d = ShortConvolution(d_model, d_conv, bias=bias, activation=None)
        self.out_proj = Linear(d_model, d_model, bias=bias)

    def _init_state(self, batch_size: int, max_length: int | None, device: torch.device, dtype: torch.dtype) -> State:
        return GatedShortConvState(self.conv1d.init_state(batch_size, device, dtype))

    def _step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        assert isinstance(state, GatedShortConvState)
        b, c, u = self.in_proj(x_t).chunk(3, dim=-1)
        z, conv = self.conv1d.step(b * u, state.conv)
        y: Tensor = self.out_proj(c * z)
        return y, GatedShortConvState(conv)

    def _scan_from(self, x: Tensor, state: GatedShortConvState | None, mask: Tensor | None) -> tuple[Tensor, State]:
        b, c, u = self.in_proj(x).chunk(3, dim=-1)
        conv = None if state is None else state.conv
        z, conv = self.conv1d(zero_padding(b * u, mask), conv)  # with a bias, b and u are not zero at padding
        y: Tensor = self.out_proj(c * z)
        return y, GatedShortConvState(conv)
