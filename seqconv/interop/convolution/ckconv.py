"""Continuous convolutions: dwromero/ckconv and sangnekim/SMPConv, and what the readers of this kind share.

Read in ckconv/nn/ckconv.py of dwromero/ckconv (commit d44c6441) and smp/ckconv/nn/ckconv.py of sangnekim/SMPConv
(de4e59a7). All learn the length of their kernels in the first forward and store it as ``train_length``; where it is
still 0 it comes from ``L``, the length of the inputs to come, and ``horizon`` (``"same"``, ``"full"``: 2 L - 1, or a
number).

All are causal and mix channels. Where the padded length is odd, convolutions by FFT return distorted outputs in the
originals (``irfft`` without a length); the imported layers return the convolution.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...filters.implicit.continuous import ContinuousFilter, PointFilter, PositionFilter
from ...mixers.convolution.continuous import ContinuousConvolution
from ..importer import Weights, add_importer, options

CKCONV = "dwromero/ckconv:CKConv"
SMPCONV = "sangnekim/SMPConv:CKConv"
ACTIVATIONS: Mapping[str, str] = {
    "Sine": "sine",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "Swish": "silu",
    "RandomFourier": "fourier",
}
CKCONV_DEFAULTS: Mapping[str, Any] = {
    "in_channels": ...,
    "out_channels": ...,
    "hidden": ...,
    "activation": ...,
    "norm": "",
    "dim_linear": 1,
    "bias": True,
    "omega_0": ...,
    "weight_dropout": 0.0,
    "train_length": None,
}
SMP_DEFAULTS: Mapping[str, Any] = {
    "in_channels": ...,
    "out_channels": ...,
    "horizon": ...,
    "n_points": 36,
    "init_radius": 0.002,
    "coord_std": 0.1,
    "kernel_dim_linear": 1,
    "conv_bias": True,
    "conv_padding": "same",
    "conv_stride": 1,
    "train_length": None,
}
SMP_IGNORED = ("use_fft", "conv_use_fft")


def infer(weights: Weights) -> dict[str, Any]:
    """The length of the kernel, where the original has met its first input."""
    length = int(weights.take("train_length"))
    return {"train_length": length} if length else {}


def kernel_length(original: str, hyper: Mapping[str, Any], size: Any) -> int:
    """Taps of the kernel in training."""
    given = hyper.get("train_length")
    if given is not None:
        return int(given)
    if size not in ("same", "full"):
        return int(size)
    if "L" not in hyper:
        remedy = "pass L, or weights saved after the first forward"
        raise argument_error(f"from_original({original!r})", "a train_length of 0", "the length of the inputs", remedy)
    return 2 * int(hyper["L"]) - 1 if size == "full" else int(hyper["L"])


def only(original: str, o: Any, **wanted: Any) -> None:
    """Raise for options whose other values were not checked."""
    for name, value in wanted.items():
        if getattr(o, name) != value:
            got = f"{name}={getattr(o, name)!r}"
            raise argument_error(f"from_original({original!r})", got, f"{name}={value!r}", f"drop {name}")


def make_layer(o: Any, filter: Callable[[int], PositionFilter], **options: Any) -> ContinuousConvolution:
    """The layer of an original's channels; options as those of :class:`ContinuousConvolution`."""
    return ContinuousConvolution(
        o.in_channels, o.out_channels, lambda outputs, inputs: filter(outputs * inputs), **options
    )


def build_ckconv(**hyper: Any) -> ContinuousConvolution:
    """The layer of dwromero/ckconv."""
    o = options(CKCONV, hyper, CKCONV_DEFAULTS)
    only(CKCONV, o, norm="", dim_linear=1)
    if o.activation not in ACTIVATIONS:
        raise unknown_name(f"from_original({CKCONV!r})", "activation", o.activation, ACTIVATIONS)
    network = ACTIVATIONS[o.activation]
    if o.weight_dropout:
        got, remedy = f"weight_dropout={o.weight_dropout}", "pass weight_dropout=0.0, which is the same in evaluation"
        raise argument_error(f"from_original({CKCONV!r})", got, "no dropout of taps", remedy)
    filter = partial(
        ContinuousFilter,
        l_max=kernel_length(CKCONV, hyper, "same"),
        network=network,
        hidden=o.hidden,
        omega_0=float(o.omega_0),
        weight_norm=network != "fourier",
    )
    return make_layer(o, filter, separable=False, bias=o.bias)


def convert_ckconv(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the layer from that of dwromero/ckconv."""
    weights.ignore("train_length")
    fourier = hyper["activation"] == "RandomFourier"
    layers = dict(zip(("hidden.0", "hidden.1", "output"), (0, 1, 3) if fourier else (0, 4, 8), strict=True))
    bias = hyper.get("bias", True)
    converted = {"bias": weights.take("bias")} if bias else {}
    for name, index in layers.items():
        original, layer = weights.part(f"Kernel.kernel_net.{index}."), f"convolution.pairs.filter.network.{name}"
        for part in ("weight",) if fourier else ("weight_v", "weight_g"):
            converted[f"{layer}.{part}"] = original.take(part)[..., 0]
        named = bias or (fourier and index == 0)  # a network without biases is imported with zeros
        outputs = len(converted[f"{layer}.weight" if fourier else f"{layer}.weight_v"])
        zeros = converted[f"{layer}.weight" if fourier else f"{layer}.weight_v"].new_zeros(outputs)
        converted[f"{layer}.bias"] = original.take("bias") if named else zeros
    return converted


def build_smpconv(**hyper: Any) -> ContinuousConvolution:
    """The layer of sangnekim/SMPConv in one dimension."""
    o = options(SMPCONV, hyper, SMP_DEFAULTS, SMP_IGNORED)
    only(SMPCONV, o, kernel_dim_linear=1, conv_padding="same", conv_stride=1)
    filter = partial(
        PointFilter,
        l_max=kernel_length(SMPCONV, hyper, o.horizon),
        points=o.n_points,
        radius=float(o.init_radius),
        spread=float(o.coord_std),
    )
    return ContinuousConvolution(o.in_channels, o.out_channels, filter, bias=o.conv_bias)


def convert_smpconv(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the layer from that of sangnekim/SMPConv."""
    weights.ignore("train_length")
    kernel = weights.part("Kernel.")
    filter = {
        "position": kernel.take("weight_coord")[..., 0],
        "radius": kernel.take("radius")[..., 0],
        "weight": kernel.take("weights"),
    }
    converted = {f"convolution.pairs.filter.{name}": tensor for name, tensor in filter.items()}
    return converted | ({"bias": weights.take("bias")} if hyper.get("conv_bias", True) else {})


add_importer(CKCONV, build=build_ckconv, convert=convert_ckconv, infer=infer, mixers=("ckconv",))
add_importer(SMPCONV, build=build_smpconv, convert=convert_smpconv, infer=infer, mixers=("smpconv",))
