"""MLP with a depthwise convolution between its projections, which adds to what it reads.

``y = W_2 φ(h + conv(h))`` (``"conv_before"`` the activation) or ``y = W_2 (g + conv(g))``, ``g = φ(h)``
(``"conv_after"``), with ``h = W_1 x`` and a 3 by 3 convolution.

Source: ConvFFN in ``classification/models/utils.py`` of YuHengsss/MSVMamba at c3940191, FeedForwardNetwork in
``classfication_release/RMT.py`` of qhfan/RMT at 32ea2141.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import unknown_name

from ...layers.linear import Linear
from ...layers.mlp import GATED, MLP, PLAIN
from ..mixers.ss2d import depthwise_conv2d

CONVOLUTIONAL = ("conv_before", "conv_after")


class ConvMLP(nn.Module):
    """Two projections, a convolution between them.

    Args:
        d_model: width of inputs and outputs.
        hidden: width between.
        after: whether the convolution follows the activation.
        bias: whether the projections and the convolution have biases.
    """

    def __init__(self, d_model: int, *, hidden: int, after: bool, bias: bool = True) -> None:
        super().__init__()
        self.after = after
        self.up = Linear(d_model, hidden, bias=bias)
        self.conv2d = depthwise_conv2d(hidden, 3, bias=bias)
        self.down = Linear(hidden, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix the channels of neighbouring cells."""
        h = self.up(x)
        h = F.gelu(h) if self.after else h
        h = h + self.conv2d(h.movedim(-1, 1)).movedim(1, -1)
        y: Tensor = self.down(h if self.after else F.gelu(h))
        return y


def create_mlp(kind: str, d_model: int, hidden: int, *, bias: bool = True) -> nn.Module:
    """The network of a block by name.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    if kind not in CONVOLUTIONAL:
        if kind not in PLAIN and kind not in GATED:
            raise unknown_name("Block2d", "mlp", kind, [*CONVOLUTIONAL, *PLAIN, *GATED])
        return MLP(d_model, kind=kind, hidden=hidden, bias=bias)
    return ConvMLP(d_model, hidden=hidden, after=kind == "conv_after", bias=bias)
