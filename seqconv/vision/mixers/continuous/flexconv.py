"""FlexConv and CCNN over images: kernels are functions of the position whose size is learned.

``flexconv`` mixes all channels, ``y_o = b_o + sum_i k_{o,i} * x_i``. ``ccnn`` is the layer of the CCNN, a depthwise
convolution and two projections, ``φ(W_2 dropout(φ(W_1 (k * x + b) + c)))``; its block normalises before and adds its
input after. The taps k of :mod:`~seqconv.filters.implicit.grids` have lags of both signs, up to ``l_max - 1`` along
every axis: a MAGNet under one Gaussian for all channels (``window="shared_gaussian"``), whose widths are learned.

The kernels are functions: ``mixer.at_rate(2.0)`` runs a trained layer on images of half the resolution.

Sources: Romero et al. 2021, "FlexConv: Continuous Kernel Convolutions with Differentiable Kernel Sizes" (arXiv
2110.08059), ckconv/nn/ckconv.py of rjbruin/flexconv (commit 0f355d15); Knigge et al. 2023, "Modelling Long Range
Dependencies in N-D" (arXiv 2301.10540), ckconv/nn/flexconv.py and models/modules/s4_block.py of david-knigge/ccnn
(a543e388). Their kernels are correlated with the image: the position there is minus that here.
"""

import math
from collections.abc import Sequence
from typing import Annotated, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ....convolution.grids import convolve_grid, mix_grid
from ....filters.implicit.grids import GridFilter, GridFilterOptions
from ....layers.activations import activate, check_activation
from ....layers.linear import Linear
from ....layers.residual import Dropout
from ....options import Default, select_options, with_defaults
from ...mixer_2d import Mixer2d
from ...registry import register_2d


class FlexGridOptions(TypedDict, total=False):
    """Options of the kernels.

    Attributes:
        l_max: lags from zero on along every axis; one number for all, or a list. Kernels have ``2 l_max - 1`` taps.
        network, hidden, layers, emb_dim, omega_0, window, mask_width, learn_mean, threshold, mask_eps: see
            :class:`~seqconv.filters.implicit.grids.GridFilterOptions`. With ``omega_0=2`` frequencies of a MAGNet
            begin as in rjbruin/flexconv (input_scale 25.6).
    """

    l_max: Annotated[int | Sequence[int], Default(17)]
    network: Annotated[str, Default("magnet")]
    hidden: Annotated[int, Default(32)]
    layers: Annotated[int, Default(3)]
    emb_dim: Annotated[int, Default(32)]
    omega_0: Annotated[float, Default(2.0)]
    window: Annotated[str, Default("shared_gaussian")]
    mask_width: Annotated[float, Default(0.1)]
    learn_mean: Annotated[bool, Default(False)]
    threshold: Annotated[float, Default(0.1)]
    mask_eps: Annotated[float, Default(1e-8)]


class FlexConvNd(nn.Module):
    """Convolution of ``(batch, *size, inputs)`` by a function of the position, with a bias.

    Args:
        inputs, outputs: channels.
        axes: of a map.
        separable: one kernel for every input, then a projection; else one for every pair of an output and an input.
        bias: whether the convolution, and the projection after it, have one.
        **options: see :class:`FlexGridOptions`.

    Raises:
        ValueError: an ``l_max`` of another length than ``axes``, or as the filter.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        axes: int,
        separable: bool = False,
        bias: bool = True,
        **options: Unpack[FlexGridOptions],
    ) -> None:
        super().__init__()
        o = with_defaults(FlexGridOptions, options, "FlexConvNd")
        l_max = [o["l_max"]] * axes if isinstance(o["l_max"], int) else list(o["l_max"])
        if len(l_max) != axes or axes < 1:
            got = f"axes={axes}, l_max={o['l_max']}"
            raise argument_error("FlexConvNd", got, "one l_max for every axis", "correct the options")
        self.inputs, self.separable = inputs, separable
        channels, fan_in = (inputs, 1) if separable else (outputs * inputs, inputs)
        self.filter = GridFilter(channels, l_max=l_max, fan_in=fan_in, **select_options(GridFilterOptions, o))
        self.bias = nn.Parameter(torch.empty(inputs if separable else outputs)) if bias else None
        self.channel_mixer = Linear(inputs, outputs, bias=bias) if separable else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Biases are zero, the projection as He et al. do it."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.channel_mixer is not None:
            nn.init.kaiming_normal_(self.channel_mixer.weight)
            if self.channel_mixer.bias is not None:
                nn.init.zeros_(self.channel_mixer.bias)

    def taps(self, x: Float[Tensor, "batch *size inputs"]) -> Float[Tensor, "1 *taps channels"]:
        """The taps for maps of the size of ``x``, lags below zero first; at most ``l_max`` lags of each sign."""
        within = (1 + math.floor((most - 1) / self.filter.rate + 1e-9) for most in self.filter.l_max)
        taps: Tensor = self.filter([min(n, most) for n, most in zip(x.shape[1:-1], within, strict=True)], x)
        return taps

    def forward(self, x: Float[Tensor, "batch *size inputs"]) -> Float[Tensor, "batch *size outputs"]:
        """The convolution, of maps that are zero outside.

        Raises:
            ValueError: another number of axes or channels.
        """
        axes = len(self.filter.l_max)
        if x.dim() != 2 + axes or x.shape[-1] != self.inputs:
            got, wanted = f"x of shape {tuple(x.shape)}", f"(batch, {axes} axes, {self.inputs})"
            raise argument_error("FlexConvNd", got, wanted, "reshape the input")
        taps = self.taps(x)
        y = convolve_grid(x, taps, [False] * axes) if self.separable else mix_grid(x, taps)
        y = y if self.bias is None else y + self.bias
        return y if self.channel_mixer is None else self.channel_mixer(y)


@register_2d(
    "flexconv",
    examples=(
        {"l_max": 4, "hidden": 6, "mask_width": 0.4, "learn_mean": True, "omega_0": 0.5},
        {
            "l_max": [5, 3],
            "hidden": 6,
            "emb_dim": 6,
            "network": "sine",
            "omega_0": 0.3,
            "threshold": 0.0,
            "bias": False,
        },
    ),
)
class FlexConv2d(Mixer2d):
    """Convolution between all channels whose kernels are functions of the position, of learned size.

    Args:
        d_model: width of inputs and outputs.
        bias: added after the convolution.
        **kernel: see :class:`FlexGridOptions`.

    Raises:
        ValueError: as :class:`FlexConvNd`.
    """

    def __init__(self, d_model: int, *, bias: bool = True, **kernel: Unpack[FlexGridOptions]) -> None:
        super().__init__(d_model)
        self.conv = FlexConvNd(d_model, d_model, axes=2, bias=bias, **kernel)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.conv(x)
        return y

    def _change_rate(self, rate: float) -> None:
        self.conv.filter.change_rate(rate)


@register_2d("ccnn", examples=({"l_max": 4, "hidden": 6, "window": "none", "omega_0": 0.5, "activation": "relu"},))
class CCNN2d(Mixer2d):
    """The layer of the CCNN over images.

    Args:
        d_model: width of inputs and outputs.
        activation: φ.
        dropout: probability.
        bias: of the convolution and the projection after it.
        **kernel: see :class:`FlexGridOptions`.

    Raises:
        ValueError: an unknown activation, or as :class:`FlexConvNd`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        **kernel: Unpack[FlexGridOptions],
    ) -> None:
        super().__init__(d_model)
        self.conv = FlexConvNd(d_model, d_model, axes=2, separable=True, bias=bias, **kernel)
        self.activation = check_activation("ccnn 2-D mixer", activation)
        self.dropout = Dropout(dropout)
        self.out_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The last projection as He et al. do it, with bias zero."""
        nn.init.kaiming_normal_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.dropout(activate(self.activation, self.conv(x)))
        return activate(self.activation, self.out_proj(y))

    def _change_rate(self, rate: float) -> None:
        self.conv.filter.change_rate(rate)
