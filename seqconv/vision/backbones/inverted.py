"""Inverted residual: a wide depthwise convolution between two projections, with squeeze and excitation.

``y = x + norm(W_2 e(relu(norm(conv(relu(norm(W_1 x)))))))`` with batch norms and e squeeze and excitation.

Source: Sandler et al. 2018 (arXiv 1801.04381), as ``operations.py`` (InvertedResidual) of TerryPei/EfficientVMamba at
0bc5ee28.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.residual import DropPath
from ...parameters import ShardedInGroups
from ..mixers.ss2d import depthwise_conv2d
from .squeeze import SqueezeExcite


class InvertedResidual(ShardedInGroups):
    """See above; takes the place of a block.

    Args:
        d_model: width of inputs and outputs.
        expand: inner channels per input channel.
        reduction: factor by which squeeze and excitation narrows the inner channels.
        drop_path: probability of leaving it out for an image.
    """

    def __init__(self, d_model: int, *, expand: int = 4, reduction: int = 8, drop_path: float = 0.0) -> None:
        super().__init__()
        inner = expand * d_model
        self.up, self.up_norm = nn.Conv2d(d_model, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2d, self.conv_norm = depthwise_conv2d(inner, 3, bias=False), nn.BatchNorm2d(inner)
        self.squeeze = SqueezeExcite(inner, reduction, bias=True)
        self.down, self.down_norm = nn.Conv2d(inner, d_model, 1, bias=False), nn.BatchNorm2d(d_model)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix neighbouring cells and channels."""
        h = F.relu(self.up_norm(self.up(x.movedim(-1, 1))))
        h = F.relu(self.conv_norm(self.conv2d(h))).movedim(1, -1)
        h = self.down_norm(self.down(self.squeeze(h).movedim(-1, 1))).movedim(1, -1)
        y: Tensor = x + self.drop_path(h)
        return y
