"""MLP with a 3 by 3 depthwise convolution between its projections.

With ``h = W_1 x``, ``y = W_2 φ(h + conv(h))`` (``"conv_before"`` the activation), ``y = W_2 (g + conv(g))``,
``g = φ(h)`` (``"conv_after"``), ``y = W_2 φ(conv(h))`` (``"conv_alone"``), or gated ``y = W_2 (φ(a) ⊙ b)``,
``[a, b] = conv(h)`` (``"conv_geglu"``).

Source: ConvFFN in ``classification/models/utils.py`` of YuHengsss/MSVMamba at c3940191, FeedForwardNetwork in
``classfication_release/RMT.py`` of qhfan/RMT at 32ea2141, FeedForward (GDFN) in
``basicsr/models/archs/restormer_arch.py`` of swz30/Restormer at df766d55, PVT2FFN in
``hierarchical_architecture/spectformer.py`` of badripatro/SpectFormers at b6cf487a.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import unknown_name

from ...layers.linear import KeptLinear, Linear
from ...layers.mlp import GATED, MLP, PLAIN
from ...layers.residual import Dropout
from ..mixers.ss2d import depthwise_conv2d

CONVOLUTIONAL = ("conv_before", "conv_after", "conv_alone", "conv_geglu")


class ConvMLP(nn.Module):
    """Two projections, a convolution between them.

    Args:
        d_model: width of inputs and outputs.
        hidden: width between.
        after: whether the convolution follows the activation.
        residual: whether what the convolution is applied to is added to its result.
        bias: whether the projections and the convolution have biases.
        dropout: probability for what enters the convolution and for the outputs.
    """

    def __init__(
        self,
        d_model: int,
        *,
        hidden: int,
        after: bool,
        residual: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.after, self.residual = after, residual
        projection = KeptLinear if residual and not after else Linear  # MSVMamba's are convolutions
        self.dropout = Dropout(dropout)
        self.up = projection(d_model, hidden, bias=bias)
        self.conv2d = depthwise_conv2d(hidden, 3, bias=bias)
        self.down = projection(hidden, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix the channels of neighbouring cells."""
        h = self.up(x)
        h = self.dropout(F.gelu(h) if self.after else h)
        mixed = self.conv2d(h.movedim(-1, 1)).movedim(1, -1)
        h = h + mixed if self.residual else mixed
        y: Tensor = self.dropout(self.down(h if self.after else F.gelu(h)))
        return y


class GatedConvMLP(nn.Module):
    """Two projections, a convolution and a gate between them (Restormer).

    Args:
        d_model: width of inputs and outputs.
        hidden: width of each half between.
        bias: whether the projections and the convolution have biases.
    """

    def __init__(self, d_model: int, *, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(d_model, 2 * hidden, bias=bias)
        self.conv2d = depthwise_conv2d(2 * hidden, 3, bias=bias)
        self.down = Linear(hidden, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "batch rows columns d_model"]) -> Float[Tensor, "batch rows columns d_model"]:
        """Mix the channels of neighbouring cells."""
        gate, value = self.conv2d(self.up(x).movedim(-1, 1)).movedim(1, -1).chunk(2, dim=-1)
        y: Tensor = self.down(F.gelu(gate) * value)
        return y


def create_mlp(
    kind: str, d_model: int, hidden: int, *, bias: bool = True, down_bias: bool | None = None, dropout: float = 0.0
) -> nn.Module:
    """The network of a block by name; ``down_bias`` and ``dropout`` as in :class:`~seqconv.layers.mlp.MLP`.

    Raises:
        ValueError: an unknown name; the nearest are named.
    """
    if kind not in CONVOLUTIONAL:
        if kind not in PLAIN and kind not in GATED:
            raise unknown_name("Block2d", "mlp", kind, [*CONVOLUTIONAL, *PLAIN, *GATED])
        return MLP(d_model, kind=kind, hidden=hidden, bias=bias, down_bias=down_bias, dropout=dropout)
    if kind == "conv_geglu":
        return GatedConvMLP(d_model, hidden=hidden, bias=bias)
    residual = kind != "conv_alone"
    return ConvMLP(d_model, hidden=hidden, after=kind == "conv_after", residual=residual, bias=bias, dropout=dropout)
