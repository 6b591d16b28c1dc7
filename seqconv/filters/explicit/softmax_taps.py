"""Taps that a softmax makes positive with sum 1, shared by the channels of a head: the filter of LightConv.

``h[c, s] = softmax_s(w[g, :])[s]`` for channel c of head g, lag 0 first.

Source: Wu et al. 2019, "Pay Less Attention with Lightweight and Dynamic Convolutions" (arXiv 1901.10430).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ...options import check_probability
from ..base import Filter, Recurrence


class SoftmaxTapsFilter(Filter):
    """Impulse responses of ``width`` taps.

    Args:
        channels: number of impulse responses.
        width: taps.
        num_heads: sets of taps, each for ``channels / num_heads`` channels that lie next to one another.
        softmax: normalise the taps; without it they are free.
        dropout: probability that a tap is dropped in training, after the softmax.

    Raises:
        ValueError: heads that do not divide the channels, no tap.
    """

    def __init__(
        self, channels: int, *, width: int, num_heads: int, softmax: bool = True, dropout: float = 0.0
    ) -> None:
        check_heads("SoftmaxTapsFilter", channels, num_heads, width)
        super().__init__(channels, max_length=width)
        check_probability("weight_dropout", dropout)
        self.softmax, self.dropout = softmax, dropout
        self.weight = nn.Parameter(torch.empty(num_heads, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier's initialisation of a kernel with one input channel."""
        num_heads, width = self.weight.shape
        bound = (6 / (width + num_heads * width)) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def _taps(self, length: int) -> Float[Tensor, "channels length"]:
        h = self.weight.to(accumulation_dtype(self.weight))
        h = F.dropout(h.softmax(-1) if self.softmax else h, self.dropout, self.training)
        h = h.repeat_interleave(self.channels // h.shape[0], dim=0)[:, :length]
        return F.pad(h, (0, length - h.shape[1]))

    def _recurrence(self) -> Recurrence | None:
        """None: the taps end."""
        return None


def check_heads(operation: str, channels: int, num_heads: int, width: int) -> None:
    """Raise for heads that do not divide the channels, or no tap.

    Raises:
        ValueError: those.
    """
    if num_heads < 1 or channels % num_heads or width < 1:
        got, wanted = f"num_heads={num_heads}, width={width}", f"a divisor of {channels}, and at least one tap"
        raise argument_error(operation, got, wanted, "correct the sizes")
