"""Position embeddings: learned for a grid of cells and resized to other grids, or projected sines and cosines."""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.operator.sizes import known

from ..layers.linear import Linear
from ..parameters import set_optimizer_options

POSITION_EPS = 1e-6


def resized_positions(
    table: Float[Tensor, "grid_rows grid_columns d_model"], rows: int, columns: int
) -> Float[Tensor, "rows columns d_model"]:
    """Position embeddings for another grid of cells: bicubic, or the table itself where the grid is its own."""
    if known(rows == table.shape[0]) and known(columns == table.shape[1]):
        return table
    resized = F.interpolate(table.movedim(-1, 0)[None], size=(rows, columns), mode="bicubic", align_corners=False)
    return resized[0].movedim(0, -1)


class FourierPositions(nn.Module):
    """Sines and cosines of the row and the column, projected to the width: the same picture at any resolution.

    ``W [φ(r / R), φ(c / C)]`` of row r of R and column c of C, counted from 1, with φ(t) the sine and the cosine of
    ``2π t θ^(-j / J)`` for j = 0 … J-1.

    Source: PositionalEncodingFourier in ``xcit.py`` of facebookresearch/xcit at 82f5291f.

    Args:
        d_model: width of the cells.
        frequencies: J.
        temperature: θ.
    """

    def __init__(self, d_model: int, *, frequencies: int = 16, temperature: float = 10_000.0) -> None:
        super().__init__()
        self.frequencies, self.temperature = frequencies, temperature
        self.proj = Linear(4 * frequencies, d_model)

    def forward(self, cells: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "rows columns d_model"]:
        """Positions for the grid of the cells, in their dtype."""
        rows, columns = (self._waves(size, cells) for size in cells.shape[1:3])
        shape = (*cells.shape[1:3], -1)
        waves = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=-1)
        positions: Tensor = self.proj(waves.to(cells.dtype))
        return positions

    def _waves(self, size: int, like: Tensor) -> Float[Tensor, "size waves"]:
        """φ of all rows, or columns; sine and cosine of a frequency are next to each other."""
        wide = torch.promote_types(like.dtype, torch.float32)
        places = torch.arange(1, size + 1, device=like.device, dtype=wide) / (size + POSITION_EPS)
        exponents = torch.arange(self.frequencies, device=like.device, dtype=wide) / self.frequencies
        angles = 2 * math.pi * places[:, None] * self.temperature**-exponents
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class PositionTables(nn.ParameterList):
    """Position embeddings of the first stages, added to their cells in a call, where hooks fetch what is offloaded."""

    def __init__(self, tables: Iterable[nn.Parameter]) -> None:
        super().__init__(tables)
        set_optimizer_options(self, *(name for name, _ in self.named_parameters()), weight_decay=0.0)

    __call__ = nn.Module.__call__  # a ParameterList can not be called

    def forward(
        self, x: Float[Tensor, "batch rows columns d_model"], stage: int
    ) -> Float[Tensor, "batch rows columns d_model"]:
        """The cells with the positions of a stage, resized to them."""
        return x + resized_positions(self[stage], *x.shape[1:3])


def both_axes(size: int | Sequence[int]) -> tuple[int, int]:
    """One number for both axes, or ``(height, width)``."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
