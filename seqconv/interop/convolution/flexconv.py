"""Continuous convolutions under a mask: rjbruin/flexconv and david-knigge/ccnn.

Read in ckconv/nn/ckconv.py and ck/*.py of rjbruin/flexconv (commit 0f355d15), ckconv/nn/{ckconv,flexconv}.py and
ck/*.py of david-knigge/ccnn (a543e388). Lengths of kernels are learned as in
:mod:`~seqconv.interop.convolution.ckconv`; ccnn also scales the last layer of its network in the first forward
(``initialized``), which is done here on import.

In one dimension all are causal but ccnn's with ``causal=False``, whose window of an odd number of taps is centred, and
all but the separable ones mix channels. For images see :mod:`~seqconv.interop.convolution.flexconv_2d`.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...filters.implicit.continuous import ContinuousFilter
from ...mixers.convolution.continuous import ContinuousConvolution
from ..importer import Weights, add_importer, options
from .ckconv import infer, kernel_length, make_layer, only

if TYPE_CHECKING:
    from ...vision.mixers.continuous.flexconv import FlexConvNd

FLEXCONV = "rjbruin/flexconv:FlexConv"
CCNN = "david-knigge/ccnn:CKConv"
CCNN_FLEX = "david-knigge/ccnn:FlexConv"
NETWORKS: Mapping[str, str] = {"MAGNet": "magnet", "SIREN": "sine"}
FLEXCONV_DEFAULTS: dict[str, Any] = {
    "in_channels": ...,
    "out_channels": ...,
    "horizon": ...,
    "kernel_dim_linear": 1,
    "kernel_type": "MAGNet",
    "kernel_no_hidden": 32,
    "kernel_no_layers": 3,
    "kernel_omega_0": 0.0,
    "mask_init_value": 0.075,
    "mask_dynamic_cropping": True,
    "mask_threshold": 0.1,
    "train_length": None,
}
FLEXCONV_FIXED: dict[str, Any] = {
    "kernel_weight_norm": False,
    "kernel_learn_omega_0": False,
    "kernel_steerable": False,
    "kernel_sampling_rate_norm": 1.0,
    "mask_use": True,
    "mask_type": "gaussian",
    "conv_padding": "same",
    "conv_stride": 1,
    "conv_bias": True,
}
"""The only values that are imported."""

CCNN_DEFAULTS: Mapping[str, Any] = {
    "cls": ...,
    "in_channels": ...,
    "out_channels": ...,
    "data_dim": 1,
    "kernel": ...,
    "conv": ...,
    "mask": None,
    "train_length": None,
}
IGNORED = ("kernel_activ_function", "kernel_norm", "kernel_bias_init", "kernel_input_scale",
"kernel_init_spatial_value",
           "conv_use_fft", "use_fft", "mask_temperature")  # fmt: skip
SEPARABLE = ("SeparableCKConv", "SeparableFlexConv")


def build_flexconv(**hyper: Any) -> "ContinuousConvolution | FlexConvNd":
    """The layer of rjbruin/flexconv, in one dimension or two."""
    o = options(FLEXCONV, hyper, FLEXCONV_FIXED | FLEXCONV_DEFAULTS, IGNORED)
    only(FLEXCONV, o, **FLEXCONV_FIXED)
    if o.kernel_type not in NETWORKS:
        raise unknown_name(f"from_original({FLEXCONV!r})", "kernel_type", o.kernel_type, NETWORKS)
    if o.kernel_dim_linear == 2:
        from . import flexconv_2d

        return flexconv_2d.build_flexconv(o, hyper)
    only(FLEXCONV, o, kernel_dim_linear=1)
    filter = partial(
        ContinuousFilter,
        l_max=kernel_length(FLEXCONV, hyper, o.horizon),
        network=NETWORKS[o.kernel_type],
        hidden=o.kernel_no_hidden,
        layers=o.kernel_no_layers,
        omega_0=float(o.kernel_omega_0),
        mask_width=float(o.mask_init_value),
        learn_mean=True,
        threshold=float(o.mask_threshold) if o.mask_dynamic_cropping else 0.0,
        crop_exactly=True,
        mask_eps=0.0,
    )
    return make_layer(o, filter, separable=False, bias=True)


def convert_flexconv(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the layer from that of rjbruin/flexconv."""
    o = options(FLEXCONV, hyper, FLEXCONV_FIXED | FLEXCONV_DEFAULTS, IGNORED)
    if o.kernel_dim_linear == 2:
        from . import flexconv_2d

        return flexconv_2d.convert_flexconv(o, weights)
    weights.ignore("train_length", "temperature", "mask_threshold")
    mean, width = weights.take("mask_params")[0].split(1)
    network = _network(weights.part("Kernel."), o.kernel_type, o.kernel_no_layers, linears="linear")
    filter = {"mask_mean": mean, "mask_width": width} | {f"network.{name}": t for name, t in network.items()}
    return {"bias": weights.take("bias")} | {f"convolution.pairs.filter.{name}": t for name, t in filter.items()}


def build_ccnn(*, original: str, **hyper: Any) -> "ContinuousConvolution | FlexConvNd":
    """The layers of david-knigge/ccnn, in one dimension or two."""
    o = options(original, hyper, CCNN_DEFAULTS)
    kernel, conv, operation = o.kernel, o.conv, f"from_original({original!r})"
    if o.cls not in ("CKConv", "FlexConv", *SEPARABLE):
        raise unknown_name(operation, "cls", o.cls, ("CKConv", "FlexConv", *SEPARABLE))
    if kernel["type"] not in NETWORKS:
        raise unknown_name(operation, "kernel.type", kernel["type"], NETWORKS)
    if conv["stride"] != 1 or not conv["bias"] or not kernel["bias"]:
        got = f"conv={conv}, kernel.bias={kernel['bias']}"
        raise argument_error(operation, got, "a convolution of stride 1 with biases", "correct the options")
    masked = "Flex" in o.cls
    if masked and o.mask["type"] != "gaussian":
        raise unknown_name(operation, "mask.type", o.mask["type"], ("gaussian",))
    if o.data_dim == 2:
        from . import flexconv_2d

        return flexconv_2d.build_ccnn(original, o, hyper)
    only(original, o, data_dim=1)
    return _build_ccnn_1d(original, o, hyper)


def _build_ccnn_1d(original: str, o: Any, hyper: Mapping[str, Any]) -> ContinuousConvolution:
    kernel, conv, masked = o.kernel, o.conv, "Flex" in o.cls
    taps = kernel_length(original, hyper, kernel["size"])
    if not conv["causal"] and taps % 2 == 0:
        wanted = "an odd number of taps around the token (the original returns one token too many otherwise)"
        got, remedy = f"{taps} taps with causal=False", "choose an odd kernel.size"
        raise argument_error(f"from_original({original!r})", got, wanted, remedy)
    mask: dict[str, Any] = {}
    if masked:
        mask = {
            "mask_width": float(o.mask["init_value"]),
            "learn_mean": o.mask["learn_mean"],
            "threshold": float(o.mask["threshold"]) if o.mask["dynamic_cropping"] else 0.0,
            "centred": not conv["causal"],
        }
    filter = partial(
        ContinuousFilter,
        l_max=taps,
        network=NETWORKS[kernel["type"]],
        hidden=kernel["no_hidden"],
        layers=kernel["no_layers"],
        omega_0=float(kernel["omega_0"]),
        **mask,
    )
    ahead = 0 if conv["causal"] else taps // 2
    return make_layer(o, filter, separable=o.cls in SEPARABLE, bias=True, lookahead=ahead)


def convert_ccnn(weights: Weights, hyper: Mapping[str, Any], *, original: str) -> dict[str, Tensor]:
    """The state dict of the layer from that of david-knigge/ccnn."""
    o = options(original, hyper, CCNN_DEFAULTS)
    if o.data_dim == 2:
        from . import flexconv_2d

        return flexconv_2d.convert_ccnn(original, o, weights, hyper)
    weights.ignore("train_length", "mask_threshold")
    initialized = bool(weights.take("initialized"))
    separable, masked = o.cls in SEPARABLE, "Flex" in o.cls
    filter = {}
    if masked:
        filter = {"mask_mean": weights.take("mask_mean_param"), "mask_width": weights.take("mask_width_param")}
    network = _network(weights.part("Kernel."), o.kernel["type"], o.kernel["no_layers"], linears="linears")
    if o.kernel["chang_initialize"] and not initialized:
        taps = kernel_length(original, hyper, o.kernel["size"])
        taps -= cropped(o.mask, filter, taps, causal=o.conv["causal"]) if masked else 0
        network["output.weight"] = network["output.weight"] * (taps * (1 if separable else o.in_channels)) ** -0.5
    filter |= {f"network.{name}": tensor for name, tensor in network.items()}
    inside = "convolution.filter" if separable else "convolution.pairs.filter"
    converted = {"bias": weights.take("bias")} | {f"{inside}.{name}": tensor for name, tensor in filter.items()}
    if separable:
        converted["channel_mixer.weight"] = weights.take("channel_mixer.weight")[..., 0]
        converted["channel_mixer.bias"] = weights.take("channel_mixer.bias")
    return converted


def cropped(mask: Mapping[str, Any], filter: Mapping[str, Tensor], taps: int, *, causal: bool) -> int:
    """Taps at the ends of the kernel that the original leaves out."""
    if not mask["dynamic_cropping"]:
        return 0
    mean, step = float(filter["mask_mean"]), 2 / (taps - 1)
    reach = abs(float(filter["mask_width"])) * math.sqrt(-2 * math.log(mask["threshold"]))
    if causal:
        return math.floor((mean - reach + 1) / step) if abs(mean - reach) < 1 else 0
    reach += abs(mean)
    return taps - (2 * math.ceil(reach / step + 1e-8) - 1) if reach < 1 else 0


def _network(weights: Weights, kind: str, layers: int, *, linears: str) -> dict[str, Tensor]:
    """The state dict of a kernel network of flexconv or ccnn."""
    converted: dict[str, Tensor] = {}
    if kind == "MAGNet":
        gabor = [weights.part(f"filters.{i}.") for i in range(layers + 1)]
        stacked = {"frequency": "linear.weight", "phase": "linear.bias", "gamma": "gamma", "mu": "mu"}
        for name, original in stacked.items():
            converted[name] = torch.stack([part.take(original).flatten() for part in gabor])
        places = {f"linears.{i}": f"{linears}.{i}" for i in range(layers)} | {"output": "output_linear"}
    else:
        places = {f"hidden.{i}": f"kernel_net.{2 * i}" for i in range(layers - 1)}
        places["output"] = "output_linear" if linears == "linears" else f"kernel_net.{2 * (layers - 1)}"
        weights.ignore(*(f"{original}.omega_0" for original in places.values()))
    for name, original in places.items():
        converted[f"{name}.weight"] = weights.take(f"{original}.weight")[..., 0]
        converted[f"{name}.bias"] = weights.take(f"{original}.bias")
    return converted


add_importer(FLEXCONV, build=build_flexconv, convert=convert_flexconv, infer=infer, mixers=("flexconv",))
for _original, _mixer in ((CCNN, "ckconv"), (CCNN_FLEX, "flexconv")):
    add_importer(
        _original,
        build=partial(build_ccnn, original=_original),
        convert=partial(convert_ccnn, original=_original),
        infer=infer,
        mixers=(_mixer, "ccnn"),
    )
