"""DCLS over images: a depthwise convolution whose taps have learned places, then a projection of each cell.

Equation: ``y = W (h ⋆ x + b) + c``, with h of :mod:`~seqconv.filters.explicit.dcls_2d` around each cell and ``⋆`` the
correlation, ``(h ⋆ x)[i, j] = sum_{a,b} h[a, b] x[i + a, j + b]``.

Without the projection it is the first layer of the blocks of ConvNeXt-dcls.

Source: as the filter.
"""

from typing import Unpack, cast

from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...filters.explicit.dcls_2d import DCLSFilter2d, SharedTaps2d
from ...layers.linear import Linear
from ...mixers.convolution.dcls import SpacedConvolution, Taps
from ..mixer_2d import Mixer2d, zero_padding_2d
from ..registry import register_2d


class Taps2d(Taps, total=False):
    """Options of the filter in two dimensions.

    Attributes:
        shared_positions, init_std: as in :class:`~seqconv.filters.explicit.dcls_2d.DCLSFilter2d`.
    """

    shared_positions: bool
    init_std: float | None


class DCLSConvolution2d(SpacedConvolution):
    """The convolution alone over images; the output has ``2 padding - span + 1`` rows and columns more than the input.

    Args:
        inputs, outputs: channels, each divided by the groups.
        padding, groups, bias: as in :class:`~seqconv.mixers.convolution.dcls.SpacedConvolution`.
        kernel_count, span, version, shared_positions: as in
            :class:`~seqconv.filters.explicit.dcls_2d.DCLSFilter2d`.
        init_std: as there; with it a bias starts as zero.
    """

    filter: DCLSFilter2d

    def __init__(
        self, inputs: int, outputs: int, *, padding: int = 0, groups: int = 1, bias: bool = True, **taps: Unpack[Taps2d]
    ) -> None:
        fan_in = inputs // groups
        filter = DCLSFilter2d(outputs * fan_in, fan_in=fan_in, **taps)
        super().__init__(filter, outputs, padding=padding, groups=groups, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the bias as PyTorch's convolutions do, or set it to zero."""
        if self.filter.init_std is None:
            super().reset_parameters()
        elif self.bias is not None:
            nn.init.zeros_(self.bias)

    def _window(self, shared: Tensor | None) -> Tensor:
        return cast(Tensor, self.filter(shared))


@register_2d("dcls", examples=({"span": 5, "kernel_count": 3, "version": "max"}, {"span": 3, "version": "v1"}))
class DCLS2d(Mixer2d):
    """Depthwise convolution with learned places, then a projection.

    Args:
        d_model: width of inputs and outputs.
        span: rows and columns of the window, odd.
        kernel_count: taps.
        version: ``"gauss"``, ``"max"``, ``"v1"`` or ``"v0"``, how a tap between cells is shared out.
        bias: of the convolution and the projection.
        projection: whether the projection follows.
        shared_positions: share the places of the taps with the other blocks of a stage of
            :class:`~seqconv.vision.backbones.hierarchical.HierarchicalBackbone`; each block has weights of its own.
        init_std: standard deviation of the initial weights of the taps, with a bias of zero; both as those of a Conv2d
            if not given.

    Raises:
        ValueError: an even window, or as the filter.
    """

    def __init__(
        self,
        d_model: int,
        *,
        span: int = 17,
        kernel_count: int = 34,
        version: str = "gauss",
        bias: bool = True,
        projection: bool = True,
        shared_positions: bool = False,
        init_std: float | None = None,
    ) -> None:
        super().__init__(d_model)
        if span % 2 == 0:
            raise argument_error("dcls 2-D mixer", f"span={span}", "an odd number", "add one")
        self.shares_values = shared_positions
        self.conv = DCLSConvolution2d(
            d_model, d_model, kernel_count=kernel_count, span=span, version=version, padding=span // 2,
            groups=d_model, bias=bias, shared_positions=shared_positions, init_std=init_std,
        )  # fmt: skip
        self.out_proj = Linear(d_model, d_model, bias=bias) if projection else nn.Identity()

    def shared_module(self) -> SharedTaps2d | None:
        """The places of the taps, freshly drawn, where blocks share them."""
        if not self.shares_values:
            return None
        f = self.conv.filter
        return SharedTaps2d(f.channels, kernel_count=f.kernel_count, span=f.span, version=f.version)

    def _forward(
        self, x: Tensor, mask: Tensor | None, shared: Float[Tensor, "2 channels kernel_count span"] | None = None
    ) -> Tensor:
        y: Tensor = self.out_proj(self.conv(zero_padding_2d(x, mask), shared))
        return y
