"""hyperevolnet/Terminator: the layer of many branches.

Read in ``models/modules/fast_multi_branch.py`` (FastMultiBranchLayer) at e4748d65, ``hyper_interact.py``,
``local_conv.py``, ``magnet.py`` and ``slow_net.py`` at 458c8c52, ``rgu.py`` at 804fe06b. ``linear.py`` and ``g_ibs.py``
are in no revision that could be read: ``Linear1d`` and ``Linear2d`` are taken for those of david-knigge/ccnn, which the
project names as its source. Weights are those of a model after its first call, which scales the last layer of each slow
network. The standardisation in groups, activation and dropout around the layer, and what it takes from the layers
before (``num_concat_pre``), are not read.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...vision.mixers.continuous.hyper_kernel import HyperKernel2d
from ..importer import Weights, add_importer, options
from .parts import count_parts

ORIGINAL = "hyperevolnet/Terminator:FastMultiBranchLayer"
DEFAULTS: Mapping[str, Any] = {
    "in_channels": ..., "size": ..., "local_kernel_sizes": (3, 9, 5, 7), "no_hidden": (64, 32, 32, 16, 64),
    "num_layers": (2, 2, 2, 2, 2), "bottleneck_factor": 1, "num_concat_pre": 0, "statistics": "batch",
}  # fmt: skip
"""Widths and layers of the five kinds of slow networks; ``statistics`` is no option of the original."""
IGNORED = ("num_branch", "data_dim", "omega_0")
"""What is 10, or 2 there; the initial frequency is in the weights."""
NETWORKS: Mapping[str, str] = {
    "global_kernel": "slow_net_g", "channel_kernel": "channel_mixer_hci.slow_net_gc",
    "gate_channel_kernel": "hyper_interact.slow_net_gc", "gate_cell_kernel": "hyper_interact.slow_net_gs",
}  # fmt: skip
GATES: dict[str, str] = {"kernel_gate": "Fast_Kernel_rgu_2", "image_gate": "Fast_Kernel_rgu"}
PROJECTIONS: dict[str, str] = {"channel_mixer": "channel_mixer_mlp", "out_proj": "bottleneck_layer"} | {
    f"{gate}.{name}_proj": f"{source}.fast_linear_{letter}"
    for gate, source in GATES.items()
    for name, letter in {"k": "k", "v": "v", "q": "q", "out": "y"}.items()
}
CONTEXT: dict[str, str] = {"reduce": "fast_reduce", "context": "fast_fc1"}
LOCAL = 4


def build(**hyper: Any) -> HyperKernel2d:
    """The mixer, on images with channels last.

    Raises:
        ValueError: another width of outputs than of inputs, maps of earlier layers.
    """
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.bottleneck_factor != 1 or o.num_concat_pre != 0:
        got = f"bottleneck_factor={o.bottleneck_factor}, num_concat_pre={o.num_concat_pre}"
        wanted = "1 and 0: a layer as wide as its input, without maps of earlier layers"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "read the other layers by code of your own")
    return HyperKernel2d(
        o.in_channels,
        image_size=o.size,
        kernel_sizes=tuple(o.local_kernel_sizes),
        hidden=tuple(o.no_hidden),
        layers=tuple(o.num_layers),
        statistics=o.statistics,
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer; convolutions by one cell are projections."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    converted = dict(_pairs(weights, PROJECTIONS))
    for name, source in GATES.items():
        converted[f"{name}.cell_bias"] = weights.take(f"{source}.fast_bias_p")[0, 0]
    for (name, source), layers in zip(NETWORKS.items(), o.num_layers[:1] + o.num_layers[2:], strict=True):
        converted |= _network(weights, name, source, layers, "bias_p")
    for index in range(LOCAL):
        name, source = f"local_convs.{index}", f"slow_net_l{index + 1}"
        converted |= _network(weights, f"{name}.network", source, o.num_layers[1], "bias_pk")
        names = CONTEXT | {f"factors.{i}": f"fast_linears_x.{i}" for i in range(o.num_layers[1])}
        converted |= _pairs(
            weights, {f"{name}.network.{target}": f"{source}.Kernel.{there}" for target, there in names.items()}
        )
        converted |= _pairs(weights, {f"{name}.channel_mixer": f"local_interact_conv_{index + 1}.channel_mixer"})
        converted[f"{name}.bias"] = weights.take(f"bias{index + 1}")
    return converted


def _network(weights: Weights, name: str, source: str, layers: int, cell_bias: str) -> dict[str, Tensor]:
    """A slow network's layers of the position."""
    weights.ignore(f"{source}.train_length")
    names = {"output": "output_linear"} | {f"linears.{i}": f"linears.{i}" for i in range(layers)}
    names |= {f"features.{i}": f"filters.{i}.linear" for i in range(layers + 1)}
    found = _pairs(weights, {f"{name}.{target}": f"{source}.Kernel.{there}" for target, there in names.items()})
    return dict(found) | {f"{name}.cell_bias": weights.take(f"{source}.Kernel.{cell_bias}")[0, 0]}


def _pairs(weights: Weights, names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    for name, source in names.items():
        yield f"{name}.weight", weights.take(f"{source}.weight").flatten(1)
        yield f"{name}.bias", weights.take(f"{source}.bias")


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    if "slow_net_l1.Kernel.bias_pk" not in weights:
        return {}
    kinds = ["slow_net_g", "slow_net_l1", *list(NETWORKS.values())[1:]]
    kernels = [weights.part(f"{kind}.Kernel.") for kind in kinds]
    return {
        "in_channels": len(weights.peek("channel_mixer_mlp.weight")),
        "size": weights.peek("Fast_Kernel_rgu.fast_bias_p").shape[-1],
        "local_kernel_sizes": [weights.peek(f"slow_net_l{i + 1}.Kernel.bias_pk").shape[-1] for i in range(LOCAL)],
        "no_hidden": [kernel.peek("output_linear.weight").shape[1] for kernel in kernels],
        "num_layers": [count_parts(kernel, "linears.{}.weight") for kernel in kernels],
    }


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
