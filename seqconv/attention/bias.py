"""Learned biases of attention scores that depend on the distance of query and key alone (MEGA).

Simple: one number per distance. Rotary: ``bias[m, n] = R_m(a) · R_n(b)`` with two learned vectors a, b and the
rotation R_m by the angles ``m θ``, ``θ_i = 10000^(-2i/d)``, of the pairs ``(a_i, a_{i+d/2})``; a function of n - m.

Source: Ma et al. 2022 (arXiv 2209.10655), facebookresearch/mega.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error, unknown_name
from seqconv_kernels._core.precision import accumulation_dtype

from .pattern import View

BIASES = ("simple", "rotary")

STANDARD_DEVIATION = 0.02
"""Of the initial values."""


class PositionBias(nn.Module, ABC):
    """Base of both."""

    @abstractmethod
    def forward(self, view: View) -> Float[Tensor, "#batch #blocks queries keys"]:
        """The bias of every query and key of a block; it means nothing where the query does not see the key.

        Raises:
            ValueError: distances beyond those that are learned.
        """


class SimpleBias(PositionBias):
    """One learned number for each distance below ``max_positions``, keys before queries first."""

    def __init__(self, max_positions: int) -> None:
        super().__init__()
        if max_positions < 1:
            raise argument_error("position bias", f"max_positions={max_positions}", "at least 1", "raise it")
        self.max_positions = max_positions
        self.weight = nn.Parameter(torch.empty(2 * max_positions - 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Biases ~ N(0, 0.02²)."""
        self.weight.normal_(std=STANDARD_DEVIATION)

    def forward(self, view: View) -> Tensor:
        last = self.max_positions - 1
        if view.reach > self.max_positions:
            remedy = "raise max_positions, set attention_chunk_size, or take position_bias='rotary', which has no end"
            wanted = f"at most max_positions={self.max_positions}"
            raise argument_error("position bias", f"{view.reach} tokens that attend to each other", wanted, remedy)
        return self.weight[last + view.offset.clamp(-last, last)][None, None]


class RotaryBias(PositionBias):
    """Product of two learned vectors, each rotated to its position.

    Args:
        d_k: length of the vectors, even.
        float32_table: take sines and cosines of the positions in float32, as the original does in every dtype;
            the bias then depends on the positions beyond their distance, by rounding.
    """

    def __init__(self, d_k: int, *, float32_table: bool = False) -> None:
        super().__init__()
        if d_k % 2:
            raise argument_error(
                "position bias", f"d_k={d_k} for rotary", "an even width", "change d_k or take 'simple'"
            )
        self.float32_table = float32_table
        self.query, self.key = nn.Parameter(torch.empty(d_k)), nn.Parameter(torch.empty(d_k))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """a, b ~ N(0, 0.02²)."""
        self.query.normal_(std=STANDARD_DEVIATION)
        self.key.normal_(std=STANDARD_DEVIATION)

    def forward(self, view: View) -> Tensor:
        position, offset, dtype = view.position, view.offset, accumulation_dtype(self.query)
        if not self.float32_table:
            last = view.reach - 1
            distances = torch.arange(-last, last + 1, device=offset.device)
            start = torch.zeros_like(distances)
            by_distance = (self._rotate(self.query, start, dtype) * self._rotate(self.key, distances, dtype)).sum(-1)
            return by_distance[last + offset.clamp(-last, last)][None, None]
        query = self._rotate(self.query, position, dtype)
        key = self._rotate(self.key, (position[..., None] + offset).clamp(min=0), dtype)
        return (query[..., None, :] * key).sum(-1)

    def _rotate(self, vector: Tensor, position: Tensor, dtype: torch.dtype) -> Tensor:
        half = len(vector) // 2
        table = torch.float32 if self.float32_table else dtype
        rank = torch.arange(half, device=vector.device, dtype=table)
        angle = position[..., None].to(table) * torch.exp(rank * -(math.log(10000) / half))
        cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
        first, second = vector.to(dtype).chunk(2)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def create_bias(name: str, d_k: int, max_positions: int, *, float32_table: bool = False) -> PositionBias:
    """Build a position bias by name.

    Raises:
        ValueError: unknown name, sizes that it cannot have.
    """
    if name not in BIASES:
        raise unknown_name("position bias", "position_bias", name, BIASES)
    return SimpleBias(max_positions) if name == "simple" else RotaryBias(d_k, float32_table=float32_table)
