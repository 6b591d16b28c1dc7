"""EcoFormer's attention: queries and keys as codes of a few bits, the same for both.

Equation, per head, with unit vectors ``x_i = W_x u_i / |W_x u_i|``, anchors a, hash weights A of b bits, and the mean
squared distance σ of all tokens to all anchors::

    φ_i = exp(-|x_i - a|² / 2σ) - μ        h_i = sign(A φ_i), b numbers of -1 and 1
    w_ij = h_i · h_j + b + 1               y_i = W_o (Σ_j w_ij v_j / Σ_j w_ij)

in linear time, since weights are products of codes. The gradient passes the sign where ``|A φ| < 1``; A, a and μ have
none: they belong to a hash function, which is drawn at random here until it is loaded or learned from attention scores
(:mod:`~seqconv.vision.mixers.attention.hash_training`).

``own_value=True`` is what the released code computes: ``(b + 1) v_i`` takes the place of ``(b + 1) Σ_j v_j``.

Source: Liu et al. 2022 (arXiv 2209.09004), ``pvt/performer.py`` and ``pvt/hashing/ksh.py`` of ziplab/EcoFormer at
a277f9e8.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error
from seqconv_kernels._core.precision import accumulation_dtype

from ....layers.linear import Linear
from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d

INITIAL_MEAN = math.exp(-0.5)
"""φ + μ at the mean squared distance."""


class HashedAttention(nn.Module):
    """Attention of codes over sequences, every token to all.

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, a divisor of the width.
        num_bits: b.
        num_anchors: anchors of each head.
        bias: whether queries and values have biases.
        own_value: see above.

    Raises:
        ValueError: heads that do not divide the width, sizes below 1.
    """

    hash_weight: Tensor
    anchors: Tensor
    mean: Tensor

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_bits: int = 16,
        num_anchors: int = 20,
        bias: bool = False,
        own_value: bool = False,
    ) -> None:
        super().__init__()
        if min(num_heads, num_bits, num_anchors) < 1 or d_model % num_heads:
            got = f"num_heads={num_heads} for d_model={d_model}, num_bits={num_bits}, num_anchors={num_anchors}"
            wanted = "heads that divide the width, sizes of at least 1"
            raise argument_error("hashed 2-D mixer", got, wanted, "correct the sizes")
        self.num_heads, self.num_bits, self.own_value = num_heads, num_bits, own_value
        self.qk_proj, self.v_proj = Linear(d_model, d_model, bias=bias), Linear(d_model, d_model, bias=bias)
        self.out_proj = Linear(d_model, d_model)
        self.register_buffer("hash_weight", torch.empty(num_heads, num_bits, num_anchors))
        self.register_buffer("anchors", torch.empty(num_heads, num_anchors, d_model // num_heads))
        self.register_buffer("mean", torch.empty(num_heads, num_anchors))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A hash function at random: unit vectors as anchors, normal weights."""
        nn.init.normal_(self.hash_weight)
        nn.init.normal_(self.anchors)
        self.anchors.copy_(F.normalize(self.anchors, dim=-1))
        nn.init.constant_(self.mean, INITIAL_MEAN)

    def forward(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Mix all tokens."""
        unit, v = self.unit_vectors(x), self._heads(self.v_proj(x))
        codes, v = self._codes(unit), v.to(unit.dtype)
        bias = self.num_bits + 1
        weights = codes @ codes.sum(-2, keepdim=True).mT + bias * x.shape[1]
        added = bias * (v if self.own_value else v.sum(-2, keepdim=True))
        mixed = (codes @ (codes.mT @ v) + added) / weights
        y: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2).to(x.dtype))
        return y

    def unit_vectors(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch heads length head_dim"]:
        """What queries and keys are before they are codes, in float32 at least."""
        projected = self._heads(self.qk_proj(x))
        unit: Tensor = F.normalize(projected.to(accumulation_dtype(projected)), dim=-1)
        return unit

    def kernel(
        self, unit: Float[Tensor, "batch heads length head_dim"], anchors: Float[Tensor, "heads anchors head_dim"]
    ) -> Float[Tensor, "batch heads length anchors"]:
        """``φ + μ`` of the module's docstring."""
        squares = unit.square().sum(-1, keepdim=True) + anchors.square().sum(-1)[:, None]
        distances = squares - 2 * unit @ anchors.mT
        kernel: Tensor = torch.exp(-distances / (2 * distances.mean((-2, -1), keepdim=True)))
        return kernel

    def _heads(self, x: Tensor) -> Float[Tensor, "batch heads length head_dim"]:
        heads: Tensor = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads

    def _codes(self, unit: Float[Tensor, "batch heads length head_dim"]) -> Float[Tensor, "batch heads length bits"]:
        """Signs, with the gradient of what they are the signs of."""
        anchors, hashing, mean = (t.to(unit.dtype) for t in (self.anchors, self.hash_weight, self.mean))
        projected = (self.kernel(unit, anchors) - mean[:, None]) @ hashing.mT
        clipped: Tensor = projected.clamp(-1, 1)
        return projected.sign().detach() + (clipped - clipped.detach())


@register_2d("hashed", examples=({"num_heads": 2, "num_bits": 5, "num_anchors": 6, "bias": True, "own_value": True},))
class Hashed2d(Mixer2d):
    """Attention of codes between all cells of an image (EcoFormer).

    Args:
        d_model: width of inputs and outputs.
        num_heads, num_bits, num_anchors, bias, own_value: see :class:`HashedAttention`.

    Raises:
        ValueError: as :class:`HashedAttention`.
    """

    continuous = False

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        num_bits: int = 16,
        num_anchors: int = 20,
        bias: bool = False,
        own_value: bool = False,
    ) -> None:
        super().__init__(d_model)
        self.attention = HashedAttention(
            d_model, num_heads=num_heads, num_bits=num_bits, num_anchors=num_anchors, bias=bias, own_value=own_value
        )

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x if x.shape[0] == 0 else by_size(self._mix, x, mask)  # no mean of nothing

    def _mix(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x.flatten(1, 2)).unflatten(1, x.shape[1:3])
        return y
