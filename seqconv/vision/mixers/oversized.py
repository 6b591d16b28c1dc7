"""ParCNetV2's mixer: convolutions that reach over the whole image from every cell, and a gate.

``[g, u] = W_in x``, ``u ← gelu(u)``, ``y = W_out (g ⊙ (conv_w(conv_h(u)) + conv(u)))`` with depthwise convolutions: of
one column, of one row, each about twice as long as the image, and a small square one. Zeros surround the image.

With ``resize`` the taps along an axis are learned for one size and interpolated to 2 n - 1 for n cells, or to a given
number.

Source: Xu et al. 2022 (arXiv 2211.07157), ``models/parcnetv2.py`` of XuRuihan/ParCNetV2 at b9d85247.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...layers.linear import Linear
from ..mixer_2d import Mixer2d, by_size
from ..registry import register_2d
from .ss2d import depthwise_conv2d


class OversizeConv2d(nn.Module):
    """A depthwise convolution along the columns, then one along the rows.

    Args:
        channels: of the images.
        size: taps of each, odd unless they are resized.
        bias: whether both have biases.
        resize: ``True`` interpolates the taps to 2 n - 1 along an axis of n cells, a number to so many (odd).

    Raises:
        ValueError: sizes below 1, an even number of taps.
    """

    def __init__(self, channels: int, size: int, *, bias: bool = False, resize: bool | int = False) -> None:
        super().__init__()
        taps = size if resize is False else 1 if resize is True else resize
        if size < 1 or taps < 1 or taps % 2 == 0:
            got = f"size={size}, resize={resize}"
            raise argument_error("OversizeConv2d", got, "an odd number of taps", "add or leave out a tap")
        self.conv_h = AxisConv2d(channels, size, axis=0, bias=bias, resize=resize)
        self.conv_w = AxisConv2d(channels, size, axis=1, bias=bias, resize=resize)

    def forward(self, x: Float[Tensor, "batch rows columns channels"]) -> Float[Tensor, "batch rows columns channels"]:
        """Convolve whole images."""
        y: Tensor = self.conv_w(self.conv_h(x.movedim(-1, 1))).movedim(1, -1)
        return y


class AxisConv2d(nn.Conv2d):
    """A depthwise convolution along the rows' index (axis 0) or the columns' index (1), channels first."""

    def __init__(self, channels: int, size: int, *, axis: int, bias: bool, resize: bool | int) -> None:
        taps, padding = ((size, 1), (size // 2, 0)) if axis == 0 else ((1, size), (0, size // 2))
        super().__init__(channels, channels, taps, padding=padding, groups=channels, bias=bias)
        self.axis, self.resize = axis, resize

    def forward(self, input: Float[Tensor, "batch channels rows columns"]) -> Tensor:
        """Convolve, with interpolated taps if they are resized."""
        if self.resize is False:
            return super().forward(input)
        taps = 2 * input.shape[2 + self.axis] - 1 if self.resize is True else self.resize
        size, padding = ((taps, 1), (taps // 2, 0)) if self.axis == 0 else ((1, taps), (0, taps // 2))
        weight = F.interpolate(self.weight, size, mode="bilinear", align_corners=True)
        return F.conv2d(input, weight, self.bias, padding=padding, groups=self.groups)


@register_2d("oversized", examples=({"global_size": 5, "d_conv": 3, "resize": True, "bias": True}, {"resize": 9}))
class Oversized2d(Mixer2d):
    """Oversized convolutions with a gate (ParCNetV2).

    Args:
        d_model: width of inputs and outputs.
        global_size: taps of the convolutions along columns and rows; twice the image less one reaches everywhere.
        d_conv: rows and columns of the small convolution, odd.
        bias: whether convolutions and the last projection have biases.
        resize: see :class:`OversizeConv2d`.

    Raises:
        ValueError: even or negative sizes.
    """

    def __init__(
        self,
        d_model: int,
        *,
        global_size: int = 13,
        d_conv: int = 7,
        bias: bool = False,
        resize: bool | int = False,
    ) -> None:
        super().__init__(d_model)
        if d_conv < 1 or d_conv % 2 == 0:
            raise argument_error("oversized 2-D mixer", f"d_conv={d_conv}", "an odd number", "add or leave out a tap")
        self.in_proj = Linear(d_model, 2 * d_model)
        self.oversize_conv = OversizeConv2d(d_model, global_size, bias=bias, resize=resize)
        self.conv2d = depthwise_conv2d(d_model, d_conv, bias=bias)
        self.out_proj = Linear(d_model, d_model, bias=bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        gate, u = self.in_proj(x).chunk(2, dim=-1)
        y: Tensor = self.out_proj(gate * by_size(self._convolved, F.gelu(u), mask))
        return y

    def _convolved(self, u: Tensor) -> Tensor:
        y: Tensor = self.oversize_conv(u) + self.conv2d(u.movedim(-1, 1)).movedim(1, -1)
        return y
