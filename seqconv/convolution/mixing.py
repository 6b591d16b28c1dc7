"""Convolution that mixes channels: an impulse response for every pair of an output and an input.

``y_o[t] = sum_i sum_{s>=0} h_{o,i}[s] u_i[t-s]``, in the forms of
:class:`~seqconv.convolution.long_convolution.LongConvolution`: whole sequences by one transform per channel and
products of their spectra; from a state by a convolution of every pair.
"""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.non_finite import set_apart
from seqconv_kernels._core.operator.composed import Composed
from seqconv_kernels._core.precision import accumulation_dtype, no_autocast

from ..filters.base import Filter
from ..state import State
from ..types import StateKind
from .long_convolution import LongConvolution


def _convolve(u: Tensor, taps: Tensor) -> Tensor:
    """Inputs (batch, length, inputs) and taps (outputs, inputs, lags) to (batch, length, outputs)."""
    wide = accumulation_dtype(u, taps)
    with no_autocast(u):
        size = 1 << (u.shape[1] + taps.shape[-1] - 2).bit_length()
        finite, non_finite = set_apart(u.to(wide), 1)
        spectra = torch.fft.rfft(finite, n=size, dim=1), torch.fft.rfft(taps.to(wide), n=size)
        product = torch.einsum("bfi,oif->bfo", *spectra)
        y: Tensor = torch.fft.irfft(product, n=size, dim=1)
    return (y[:, : u.shape[1]] + non_finite.sum(2, keepdim=True)).to(u.dtype)


_CONVOLVE = Composed("mixing_conv", _convolve, lambda u, taps: u.new_empty(*u.shape[:2], taps.shape[0]))


class MixingConvolution(nn.Module):
    """Causal convolution of all inputs into all outputs.

    Args:
        filter: impulse responses ordered (output, input).
        inputs: channels of the signal.

    Raises:
        ValueError: inputs that do not divide the channels of the filter.
    """

    def __init__(self, filter: Filter, inputs: int) -> None:
        super().__init__()
        if inputs < 1 or filter.channels % inputs:
            got = f"inputs={inputs}"
            raise argument_error("MixingConvolution", got, f"a divisor of {filter.channels} responses", "change inputs")
        self.inputs, self.outputs = inputs, filter.channels // inputs
        self.pairs = LongConvolution(filter)

    @property
    def filter(self) -> Filter:
        """The impulse responses."""
        return self.pairs.filter

    @property
    def state_kind(self) -> StateKind:
        """That of the convolution of the pairs."""
        return self.pairs.state_kind

    def forward(self, u: Float[Tensor, "batch length inputs"]) -> Float[Tensor, "batch length outputs"]:
        """Convolve whole sequences; inputs at padding must be zero."""
        if u.shape[0] == 0:  # no transform of nothing
            return u.new_zeros(0, u.shape[1], self.outputs)
        (kernel,) = self.pairs.kernels(u.shape[1])
        taps = kernel.past.unflatten(0, (self.outputs, self.inputs))
        y: Tensor = _CONVOLVE(u, taps)
        return y

    def init_state(self, batch_size: int, max_length: int | None = None) -> State:
        """The state before the first input; arguments as for the convolution of the pairs."""
        return self.pairs.init_state(batch_size, max_length)

    def prefill(
        self, u: Float[Tensor, "batch length inputs"], state: State
    ) -> tuple[Float[Tensor, "batch length outputs"], State]:
        """Any number of inputs from a state; errors as for the convolution of the pairs."""
        y, after = self.pairs.prefill(self._spread(u), state)
        return self._sum(y), after

    def step(self, u_t: Float[Tensor, "batch inputs"], state: State) -> tuple[Float[Tensor, "batch outputs"], State]:
        """One input from a state; errors as for the convolution of the pairs."""
        y, after = self.pairs.step(self._spread(u_t), state)
        return self._sum(y), after

    def _spread(self, u: Tensor) -> Tensor:
        """Every input once per output."""
        return u.repeat(*[1] * (u.dim() - 1), self.outputs)

    def _sum(self, y: Tensor) -> Tensor:
        return cast(Tensor, y.unflatten(-1, (self.outputs, self.inputs))).sum(-1)
