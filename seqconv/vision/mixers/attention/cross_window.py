"""CSWin's attention: half of the heads inside of vertical strips of the image, the others inside of horizontal ones.

Equation per head of d channels, with j the cells of the strip of i and C a 3 by 3 depthwise convolution inside of it::

    o_i = Σ_j softmax_j(q_i · k_j / √d) v_j + C(v)_i,        y = W_out [o_vertical, o_horizontal]

With ``strip=None`` all heads attend to the whole image, as in the last stage. Images are padded to whole strips, and
padding is not attended to.

Source: Dong et al. 2021 (arXiv 2107.00652) and ``classification/models/slab_cswin.py`` (LePEAttention, CSWinBlock) of
xinghaochen/SLAB at f58db00b.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....layers.linear import Linear
from ...mixer_2d import Mixer2d, by_size
from ...registry import register_2d
from ..ss2d import depthwise_conv2d
from .window import attend_in_windows, check_heads, from_windows, regions, separation, to_windows

D_CONV = 3


@register_2d(
    "cross_window", examples=({"num_heads": 2, "strip": 2, "qkv_bias": False}, {"num_heads": 2, "strip": None})
)
class CrossWindow2d(Mixer2d):
    """Attention inside of strips along both axes (CSWin).

    Args:
        d_model: width of inputs and outputs.
        num_heads: heads, a divisor of the width; even with strips.
        strip: columns of a vertical strip, and rows of a horizontal one; ``None`` for the whole image.
        qkv_bias: whether queries, keys and values have biases.

    Raises:
        ValueError: heads that do not divide the width, an odd number of heads with strips, a strip below 1.
    """

    def __init__(self, d_model: int, *, num_heads: int = 4, strip: int | None = 7, qkv_bias: bool = True) -> None:
        super().__init__(d_model)
        check_heads("cross_window", d_model, num_heads)
        if strip is not None and (strip < 1 or num_heads % 2):
            got, wanted = f"strip={strip}, num_heads={num_heads}", "a strip of at least 1, an even number of heads"
            raise argument_error("cross_window 2-D mixer", got, wanted, "correct them, or take strip=None")
        self.num_heads, self.strip = num_heads, strip
        self.qkv_proj, self.out_proj = Linear(d_model, 3 * d_model, bias=qkv_bias), Linear(d_model, d_model)
        axes = 1 if strip is None else 2
        self.convs = nn.ModuleList(depthwise_conv2d(d_model // axes, D_CONV) for _ in range(axes))

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.out_proj(by_size(self._mixed, self.qkv_proj(x), mask))
        return y

    def _mixed(self, qkv: Float[Tensor, "batch rows columns channels_in"]) -> Float[Tensor, "batch rows columns d"]:
        rows, columns = qkv.shape[1:3]
        if self.strip is None:
            return self._attend(qkv, 0, rows, columns)
        vertical, horizontal = (half.flatten(3) for half in qkv.unflatten(-1, (3, self.d_model)).chunk(2, dim=-1))
        mixed = self._attend(vertical, 0, rows, self.strip), self._attend(horizontal, 1, self.strip, columns)
        return torch.cat(mixed, dim=-1)

    def _attend(self, qkv: Tensor, axis: int, height: int, width: int) -> Tensor:
        """Heads of one axis, inside of windows of ``height`` by ``width`` cells."""
        rows, columns = qkv.shape[1:3]
        height, width = min(height, rows), min(width, columns)
        padded = F.pad(qkv, (0, 0, 0, -columns % width, 0, -rows % height))
        bias = None
        if padded.shape[1:3] != (rows, columns):
            bias = separation(regions(rows, columns, height, width, 0, qkv.device), height, width, qkv.dtype)
        y = attend_in_windows(padded, self.num_heads // len(self.convs), height, width, bias)
        y = y + self._local(padded.chunk(3, dim=-1)[2], axis, height, width)
        return y[:, :rows, :columns]

    def _local(self, v: Tensor, axis: int, height: int, width: int) -> Tensor:
        windows = to_windows(v, height, width)
        images = windows.flatten(0, 1).unflatten(1, (height, width)).movedim(-1, 1)
        local = self.convs[axis](images).flatten(2).mT.unflatten(0, windows.shape[:2])
        return from_windows(local, height, width, v.shape[1] // height, v.shape[2] // width)
