"""Continuous convolutions of images: rjbruin/flexconv (``kernel_dim_linear=2``), david-knigge/ccnn (``data_dim=2``).

Read as :mod:`~seqconv.interop.convolution.flexconv` says. Kernels have an odd number K of taps along both axes
(``train_length``), those of positions from -1 to 1 in a correlation: ``l_max = (K + 1) / 2`` here, and positions have
the other sign (frequencies of the first layer, places of Gabor functions, mean of the mask). Sines of ``ω_0 (W p + b)``
are read with ω_0 multiplied into the weights.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.mixers.continuous.flexconv import FlexConvNd
from ..importer import Weights
from .ckconv import kernel_length
from .flexconv import FLEXCONV, NETWORKS, SEPARABLE, cropped


def build_flexconv(o: Any, hyper: Mapping[str, Any]) -> FlexConvNd:
    """The layer of rjbruin/flexconv over images."""
    network = _network_options(FLEXCONV, o.kernel_type, o.kernel_no_hidden, o.kernel_no_layers, o.kernel_omega_0)
    return FlexConvNd(
        o.in_channels,
        o.out_channels,
        axes=2,
        l_max=_lags(FLEXCONV, kernel_length(FLEXCONV, hyper, o.horizon)),
        window="shared_gaussian",
        mask_width=float(o.mask_init_value),
        learn_mean=True,
        threshold=float(o.mask_threshold) if o.mask_dynamic_cropping else 0.0,
        mask_eps=0.0,
        **network,
    )


def convert_flexconv(o: Any, weights: Weights) -> dict[str, Tensor]:
    """The state dict of the layer from that of rjbruin/flexconv."""
    weights.ignore("train_length", "temperature", "mask_threshold")
    mean, width = weights.take("mask_params").unbind(1)
    network = _network(
        weights.part("Kernel."), o.kernel_type, o.kernel_no_layers, o.kernel_omega_0, linears="linear", last=None
    )
    converted = {"bias": weights.take("bias"), "filter.mask.mean": -mean, "filter.mask.width": width}
    return converted | {f"filter.{name}": tensor for name, tensor in network.items()}


def build_ccnn(original: str, o: Any, hyper: Mapping[str, Any]) -> FlexConvNd:
    """The layers of david-knigge/ccnn over images."""
    kernel, masked = o.kernel, "Flex" in o.cls
    if o.conv["causal"]:
        wanted = "causal=False over images"
        raise argument_error(f"from_original({original!r})", "conv.causal=True", wanted, "correct the options")
    mask: dict[str, Any] = {"window": "none"}
    if masked:
        mask = {
            "window": "shared_gaussian",
            "mask_width": float(o.mask["init_value"]),
            "learn_mean": o.mask["learn_mean"],
            "threshold": float(o.mask["threshold"]) if o.mask["dynamic_cropping"] else 0.0,
        }
    network = _network_options(original, kernel["type"], kernel["no_hidden"], kernel["no_layers"], kernel["omega_0"])
    l_max = _lags(original, kernel_length(original, hyper, kernel["size"]))
    separable = o.cls in SEPARABLE
    return FlexConvNd(o.in_channels, o.out_channels, axes=2, separable=separable, l_max=l_max, **network, **mask)


def convert_ccnn(original: str, o: Any, weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the layer from that of david-knigge/ccnn."""
    weights.ignore("train_length", "mask_threshold")
    initialized, kernel, separable = bool(weights.take("initialized")), o.kernel, o.cls in SEPARABLE
    converted = {"bias": weights.take("bias")}
    taps = [kernel_length(original, hyper, kernel["size"])] * 2
    if "Flex" in o.cls:
        mean, width = weights.take("mask_mean_param"), weights.take("mask_width_param")
        converted |= {"filter.mask.mean": -mean, "filter.mask.width": width}
        axes = [{"mask_mean": m, "mask_width": w} for m, w in zip(mean.detach(), width.detach(), strict=True)]
        taps = [k - cropped(o.mask, axis, k, causal=False) for k, axis in zip(taps, axes, strict=True)]
    network = _network(
        weights.part("Kernel."),
        kernel["type"],
        kernel["no_layers"],
        kernel["omega_0"],
        linears="linears",
        last="output_linear",
    )
    if kernel["chang_initialize"] and not initialized:
        name = "network.output.weight" if "network.output.weight" in network else "output.weight"
        network[name] = network[name] * (taps[0] * taps[1] * (1 if separable else o.in_channels)) ** -0.5
    converted |= {f"filter.{name}": tensor for name, tensor in network.items()}
    if separable:
        converted["channel_mixer.weight"] = weights.take("channel_mixer.weight")[..., 0, 0]
        converted["channel_mixer.bias"] = weights.take("channel_mixer.bias")
    return converted


def _lags(original: str, taps: int) -> int:
    if taps % 2 == 0:
        remedy = "choose an odd size"
        raise argument_error(f"from_original({original!r})", f"{taps} taps along each axis", "an odd number", remedy)
    return (taps + 1) // 2


def _network_options(original: str, kind: str, hidden: int, layers: int, omega_0: float) -> dict[str, Any]:
    """Options of the filter's network; ``omega_0`` decides about initial values alone."""
    if kind == "MAGNet":
        return {"network": NETWORKS[kind], "hidden": hidden, "layers": layers, "omega_0": float(omega_0)}
    if layers < 3:
        got, remedy = f"a SIREN of {layers} layers", "use at least 3"
        raise argument_error(f"from_original({original!r})", got, "at least 3 layers over images", remedy)
    omega_0 = float(omega_0) / (2 * torch.pi)
    return {"network": NETWORKS[kind], "hidden": hidden, "emb_dim": hidden, "layers": layers - 1, "omega_0": omega_0}


def _network(
    weights: Weights, kind: str, layers: int, omega_0: float, *, linears: str, last: str | None
) -> dict[str, Tensor]:
    """The state dict of a kernel network of flexconv or ccnn."""
    if kind == "MAGNet":
        return {f"network.{name}": tensor for name, tensor in _magnet(weights, layers, linears).items()}
    places = {"embed": "kernel_net.0"} | {f"hidden.{i}": f"kernel_net.{2 * i + 2}" for i in range(layers - 2)}
    weights.ignore(*(f"{original}.omega_0" for original in places.values()))
    places["output"] = last or f"kernel_net.{2 * (layers - 1)}"
    converted: dict[str, Tensor] = {}
    for name, original in places.items():
        factor = 1.0 if name == "output" else float(omega_0)
        sign = -1.0 if name == "embed" else 1.0
        converted[f"{name}.weight"] = sign * factor * weights.take(f"{original}.weight")[..., 0, 0]
        converted[f"{name}.bias"] = factor * weights.take(f"{original}.bias")
    return converted


def _magnet(weights: Weights, layers: int, linears: str) -> dict[str, Tensor]:
    gabor = [weights.part(f"filters.{i}.") for i in range(layers + 1)]
    converted = {
        "frequency": torch.stack([-part.take("linear.weight")[..., 0, 0] for part in gabor]),
        "phase": torch.stack([part.take("linear.bias") for part in gabor]),
        "gamma": torch.stack([part.take("gamma") for part in gabor]),
        "mu": torch.stack([-part.take("mu") for part in gabor]),
    }
    places = {f"linears.{i}": f"{linears}.{i}" for i in range(layers)} | {"output": "output_linear"}
    for name, original in places.items():
        converted[f"{name}.weight"] = weights.take(f"{original}.weight")[..., 0, 0]
        converted[f"{name}.bias"] = weights.take(f"{original}.bias")
    return converted
