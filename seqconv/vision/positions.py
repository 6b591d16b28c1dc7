"""Position embeddings that are learned for a grid of cells, and resized to other grids."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resized_positions(
    table: Float[Tensor, "grid_rows grid_columns d_model"], rows: int, columns: int
) -> Float[Tensor, "rows columns d_model"]:
    """Position embeddings for another grid of cells: bicubic, or the table itself where the grid is its own."""
    if (rows, columns) == table.shape[:2]:
        return table
    resized = F.interpolate(table.movedim(-1, 0)[None], size=(rows, columns), mode="bicubic", align_corners=False)
    return resized[0].movedim(0, -1)
