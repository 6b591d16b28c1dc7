"""CKConv, FlexConv and SMPConv: convolutions whose kernels are functions of time, between all channels.

Equation: ``y_o[t] = b_o + sum_i sum_{s<l_max} k_{o,i}(1 - 2 s/(l_max - 1)) x_i[t-s]``, with the kernel k

* of ``ckconv`` a network of sines of the position;
* of ``flexconv`` a multiplicative Gabor network (MAGNet) under a Gaussian mask whose width is learned: the layer
  learns the size of its kernel;
* of ``smpconv`` an interpolation between learned points, which all inputs of an output share.

Norms and activations between the layers belong to the block. The kernels are functions: ``mixer.at_rate(2.0)`` runs a
trained layer on every second sample, ``mixer.at_times`` (``ckconv``, ``flexconv``) on samples at any times.

Sources: Romero et al. 2021, "CKConv: Continuous Kernel Convolution for Sequential Data" (arXiv 2102.02611) and
"FlexConv: Continuous Kernel Convolutions with Differentiable Kernel Sizes" (arXiv 2110.08059); Kim and Park 2023,
"SMPConv: Self-moving Point Representations for Continuous Convolution" (arXiv 2304.02330). Code as named in
:mod:`~seqconv.filters.implicit.continuous`. Originals that convolve odd padded lengths by an FFT get distorted outputs
(their inverse transform returns one sample too few); here they are the convolution. The first original writes the
initial values of its sines into weights that weight normalisation overwrites; here they are those of the paper.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypedDict, Unpack

from torch import Tensor, nn

from ...filters.implicit.continuous import ContinuousFilter, PointFilter, PointFilterOptions, PositionFilter
from ...layers.activations import activate, check_activation
from ...layers.linear import Linear
from ...layers.residual import Dropout
from ...options import Default, with_defaults
from ...registry import register
from .continuous import ContinuousMixer


@register(
    "ckconv",
    examples=(
        {"l_max": 24, "hidden": 8, "omega_0": 5.0, "weight_norm": False},
        {"l_max": 50, "hidden": 6, "network": "fourier", "omega_0": 1.0, "weight_norm": False},
        {"l_max": 37, "hidden": 6, "network": "relu", "layers": 2},
    ),
)
class CKConv(ContinuousMixer):
    """Continuous kernel convolution: the taps are a network of sines of their position.

    Args:
        d_model: width of inputs and outputs.
        l_max: lags of the kernel, at the rate of training; longer sequences are mixed within this window.
        network, hidden, layers, omega_0, weight_norm: see
            :class:`~seqconv.filters.implicit.continuous.KernelNetworkOptions`.
        bias: added after the convolution.

    Raises:
        ValueError: as the filter.
    """

    def __init__(
        self,
        d_model: int,
        *,
        l_max: int = 1024,
        network: str = "sine",
        hidden: int = 32,
        layers: int = 3,
        omega_0: float = 30.0,
        weight_norm: bool = True,
        bias: bool = True,
    ) -> None:
        def make_filter(outputs: int, inputs: int) -> PositionFilter:
            return ContinuousFilter(
                outputs * inputs,
                l_max=l_max,
                network=network,
                hidden=hidden,
                layers=layers,
                omega_0=omega_0,
                weight_norm=weight_norm,
            )

        super().__init__(d_model, make_filter, bias=bias)


class FlexKernelOptions(TypedDict, total=False):
    """Options of the kernels of FlexConv and CCNN.

    Attributes:
        l_max: lags of the kernel, at the rate of training; longer sequences are mixed within this window.
        network, hidden, layers, omega_0: see :class:`~seqconv.filters.implicit.continuous.KernelNetworkOptions`.
        mask_width, learn_mean, threshold: see :class:`~seqconv.filters.implicit.continuous.MaskOptions`.
    """

    l_max: Annotated[int, Default(1024)]
    network: Annotated[str, Default("magnet")]
    hidden: Annotated[int, Default(32)]
    layers: Annotated[int, Default(3)]
    omega_0: Annotated[float, Default(30.0)]
    mask_width: Annotated[float | None, Default(0.1)]
    learn_mean: Annotated[bool, Default(False)]
    threshold: Annotated[float, Default(0.1)]


def masked_kernels(fan_in: int, given: FlexKernelOptions, operation: str) -> Callable[[int, int], PositionFilter]:
    """Makes the filter of FlexConv and CCNN; ``fan_in`` kernels are summed into one output."""
    o = with_defaults(FlexKernelOptions, given, operation)
    options = {name: value for name, value in o.items() if name != "l_max"}

    def make_filter(outputs: int, inputs: int) -> PositionFilter:
        return ContinuousFilter(outputs * inputs, l_max=o["l_max"], fan_in=fan_in, **options)  # type: ignore[arg-type]

    return make_filter


@register(
    "flexconv",
    examples=(
        {"l_max": 30, "hidden": 6, "mask_width": 0.3, "learn_mean": True, "omega_0": 2.0},
        {"l_max": 40, "hidden": 6, "network": "sine", "omega_0": 5.0, "threshold": 0.0},
    ),
)
class FlexConv(ContinuousMixer):
    """Continuous kernel convolution that learns the size of its kernel by a Gaussian mask.

    Args:
        d_model: width of inputs and outputs.
        bias: added after the convolution.
        **kernel: see :class:`FlexKernelOptions`.

    Raises:
        ValueError: as the filter.
    """

    def __init__(self, d_model: int, *, bias: bool = True, **kernel: Unpack[FlexKernelOptions]) -> None:
        super().__init__(d_model, masked_kernels(d_model, kernel, self.name), bias=bias)


@register(
    "smpconv",
    examples=(
        {"l_max": 24, "points": 5, "radius": 0.3},
        {"l_max": 50, "points": 9, "spread": 0.4},
    ),
)
class SMPConv(ContinuousMixer):
    """Continuous kernel convolution through points that move.

    Args:
        d_model: width of inputs and outputs.
        l_max: lags of the kernel, at the rate of training; longer sequences are mixed within this window.
        bias: added after the convolution.
        **filter: see :class:`~seqconv.filters.implicit.continuous.PointFilterOptions`.

    Raises:
        ValueError: as the filter.
    """

    def __init__(
        self, d_model: int, *, l_max: int = 1024, bias: bool = True, **filter: Unpack[PointFilterOptions]
    ) -> None:
        super().__init__(d_model, partial(PointFilter, l_max=l_max, **filter), bias=bias)


@register(
    "ccnn",
    examples=(
        {"l_max": 30, "hidden": 6, "mask_width": None, "omega_0": 2.0},
        {"l_max": 40, "hidden": 6, "network": "sine", "omega_0": 5.0, "activation": "relu", "bias": False},
    ),
)
class CCNN(ContinuousMixer):
    """The layer of the CCNN: a depthwise FlexConv and two projections, ``φ(W_2 dropout(φ(W_1 (k * x + b))))``.

    Its block normalises before and adds its input after (Knigge et al. 2023, "Modelling Long Range Dependencies in
    N-D", arXiv 2301.10540; models/modules/s4_block.py of david-knigge/ccnn at a543e388). The kernel is that of
    ``flexconv``.

    Args:
        d_model: width of inputs and outputs.
        activation: φ.
        dropout: probability.
        bias: of the convolution and the projection after it.
        **kernel: see :class:`FlexKernelOptions`.

    Raises:
        ValueError: an unknown activation, or as the filter.
    """

    def __init__(
        self,
        d_model: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        **kernel: Unpack[FlexKernelOptions],
    ) -> None:
        super().__init__(d_model, masked_kernels(1, kernel, self.name), separable=True, bias=bias)
        self.activation = check_activation("ccnn mixer", activation)
        self.dropout = Dropout(dropout)
        self.out_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The last projection as He et al. do it, with bias zero."""
        nn.init.kaiming_normal_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def _finish(self, y: Tensor) -> Tensor:
        return activate(self.activation, self.out_proj(self.dropout(activate(self.activation, y))))
