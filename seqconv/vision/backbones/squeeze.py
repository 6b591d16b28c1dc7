"""Squeeze and excitation: every channel multiplied by a number that depends on the means of all channels.

``y = x ⊙ σ(W_2 relu(W_1 mean(x)))`` (Hu et al. 2017, arXiv 1709.01507).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.linear import KeptLinear, Linear


class SqueezeExcite(nn.Module):
    """See above.

    Args:
        channels: of the images.
        reduction: factor by which the means are narrowed.
        narrow: the width of the narrowed means instead.
        bias: whether the projections have biases; where they have, they are convolutions in the originals.
    """

    def __init__(self, channels: int, reduction: int, *, narrow: int | None = None, bias: bool = False) -> None:
        super().__init__()
        narrow = max(1, channels // reduction) if narrow is None else narrow
        projection = KeptLinear if bias else Linear
        self.down, self.up = projection(channels, narrow, bias=bias), projection(narrow, channels, bias=bias)

    def forward(self, x: Float[Tensor, "batch rows columns channels"]) -> Float[Tensor, "batch rows columns channels"]:
        """Weigh the channels of whole images."""
        weights: Tensor = self.up(F.relu(self.down(x.mean((1, 2), keepdim=True)))).sigmoid()
        return x * weights
