"""A projection through a bottleneck, ``W_2 φ(W_1 x)``, which starts at zero as RWKV's do."""

import math

import torch
from torch import Tensor, nn

from .activations import activate
from .initialisation import reset_orthogonal
from .linear import Linear

OUTPUT_GAIN = 0.1
"""Gain of the second matrix at the start, as in the original."""


def rwkv_rank(factor: float, d_model: int) -> int:
    """Width of the bottleneck that the original suggests: ``factor √d_model``, a multiple of 32."""
    return max(32, round(factor * math.sqrt(d_model) / 32) * 32)


class LowRank(nn.Module):
    """``W_2 φ(W_1 x)`` without biases.

    Args:
        d_in: width of inputs.
        rank: width of the bottleneck.
        d_out: width of outputs.
        activation: φ, a name of :mod:`~seqconv.layers.activations`.
    """

    def __init__(self, d_in: int, rank: int, d_out: int, *, activation: str = "identity") -> None:
        super().__init__()
        self.activation = activation
        self.down, self.up = Linear(d_in, rank, bias=False), Linear(rank, d_out, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The first matrix zero, the second orthogonal."""
        self.down.weight.zero_()
        gain = max(1.0, self.up.in_features / self.up.out_features) ** 0.5
        reset_orthogonal(self.up.weight, OUTPUT_GAIN * gain)

    def forward(self, x: Tensor) -> Tensor:
        """From (…, d_in) to (…, d_out)."""
        y: Tensor = self.up(activate(self.activation, self.down(x)))
        return y
