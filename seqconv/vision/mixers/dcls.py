"""DCLS over images: a depthwise convolution whose taps have learned places, then a projection of each cell.

Equation: ``y = W (h ⋆ x + b) + c``, with h of :mod:`~seqconv.filters.explicit.dcls_2d` around each cell and ``⋆`` the
correlation, ``(h ⋆ x)[i, j] = sum_{a,b} h[a, b] x[i + a, j + b]``.

Source: as the filter.
"""

from typing import Unpack, cast

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...filters.explicit.dcls_2d import DCLSFilter2d
from ...layers.linear import Linear
from ...mixers.convolution.dcls import SpacedConvolution, Taps
from ..mixer_2d import Mixer2d, zero_padding_2d
from ..registry import register_2d


class DCLSConvolution2d(SpacedConvolution):
    """The convolution alone over images; the output has ``2 padding - span + 1`` rows and columns more than the input.

    Args:
        inputs, outputs: channels, each divided by the groups.
        padding, groups, bias: as in :class:`~seqconv.mixers.convolution.dcls.SpacedConvolution`.
        kernel_count, span, version: as in :class:`~seqconv.filters.explicit.dcls_2d.DCLSFilter2d`.
    """

    filter: DCLSFilter2d

    def __init__(
        self, inputs: int, outputs: int, *, padding: int = 0, groups: int = 1, bias: bool = True, **taps: Unpack[Taps]
    ) -> None:
        fan_in = inputs // groups
        filter = DCLSFilter2d(outputs * fan_in, fan_in=fan_in, **taps)
        super().__init__(filter, outputs, padding=padding, groups=groups, bias=bias)

    def _window(self) -> Tensor:
        return cast(Tensor, self.filter())


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
