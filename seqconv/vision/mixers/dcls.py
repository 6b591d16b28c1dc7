"""DCLS over images: a depthwise convolution whose taps have learned places, then a projection of each cell.

Equation: ``y = W (h ⋆ x + b) + c``, with h of :mod:`~seqconv.filters.explicit.dcls_2d` around each cell and ``⋆`` the
correlation, ``(h ⋆ x)[i, j] = sum_{a,b} h[a, b] x[i + a, j + b]``.

Source: as the filter. Published, from memory of the paper: ImageNet 82.5 for ConvNeXt-T with 17 by 17 windows of 34
taps.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...filters.explicit.dcls_2d import DCLSFilter2d
from ...layers.linear import Linear
from ..mixer_2d import Mixer2d, zero_padding_2d
from ..registry import register_2d


class DCLSConvolution2d(nn.Module):
    """The convolution alone, between groups of channels and with padding around the image, as in the original.

    Args:
        inputs, outputs: channels, each divided by the groups.
        padding: cells of zeros on every side; the output has ``2 padding - span + 1`` rows and columns more.
        groups: of channels that are not mixed with others.
        bias: added to the outputs.
        kernel_count, span, version: as in :class:`~seqconv.filters.explicit.dcls_2d.DCLSFilter2d`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_count: int,
        span: int,
        version: str,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.groups, self.padding, self.fan_in = groups, padding, inputs // groups
        self.filter = DCLSFilter2d(
            outputs * self.fan_in, kernel_count=kernel_count, span=span, version=version, fan_in=self.fan_in
        )
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the bias as a Conv2d does."""
        if self.bias is not None:
            bound = (self.fan_in * self.filter.weight.shape[1]) ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "batch height width inputs"]) -> Float[Tensor, "batch _ _ outputs"]:
        """Convolve whole images."""
        taps = cast(Tensor, self.filter()).unflatten(0, (-1, self.fan_in)).to(x.dtype)
        y = F.conv2d(x.movedim(-1, 1), taps, self.bias, padding=self.padding, groups=self.groups)
        return y.movedim(1, -1)


@register_2d("dcls", examples=({"span": 5, "kernel_count": 3, "version": "max"}, {"span": 3, "version": "v1"}))
class DCLS2d(Mixer2d):
    """Depthwise convolution with learned places, then a projection.

    Args:
        d_model: width of inputs and outputs.
        span: rows and columns of the window, odd.
        kernel_count: taps.
        version: ``"gauss"``, ``"max"``, ``"v1"`` or ``"v0"``, how a tap between cells is shared out.
        bias: of the convolution and the projection.

    Raises:
        ValueError: an even window, or as the filter.
    """

    def __init__(
        self, d_model: int, *, span: int = 17, kernel_count: int = 34, version: str = "gauss", bias: bool = True
    ) -> None:
        super().__init__(d_model)
        if span % 2 == 0:
            raise argument_error("dcls 2-D mixer", f"span={span}", "an odd number", "add one")
        self.conv = DCLSConvolution2d(
            d_model, d_model, kernel_count=kernel_count, span=span, version=version, padding=span // 2,
            groups=d_model, bias=bias,
        )  # fmt: skip
        self.out_proj = Linear(d_model, d_model, bias=bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.out_proj(self.conv(zero_padding_2d(x, mask)))
        return y
