"""Reading the layers of state-spaces/mamba: Mamba and Mamba2.

Every option was read in the original at e9594ce: ``mamba_ssm/modules/mamba_simple.py`` and ``mamba2.py``. Layers that a
process group splits hold a part of the weights and are unsupported.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.state_space.mamba import Mamba
from ...mixers.state_space.mamba2 import Mamba2
from ..importer import Weights, add_importer, options

MAMBA = "state-spaces/mamba:Mamba"
MAMBA_NAMES = (
    MAMBA,
    "state-spaces/mamba:mamba_simple.py:Mamba",
    "state-spaces/mamba:mamba_ssm/modules/mamba_simple.py:Mamba",
    "state-spaces/mamba:mamba_ssm.modules.mamba_simple.Mamba",
    "state-spaces/mamba:mamba_ssm.Mamba",
)
MAMBA2 = "state-spaces/mamba:Mamba2"
MAMBA2_NAMES = (
    MAMBA2,
    "state-spaces/mamba:mamba2.py:Mamba2",
    "state-spaces/mamba:mamba_ssm/modules/mamba2.py:Mamba2",
    "state-spaces/mamba:mamba_ssm.modules.mamba2.Mamba2",
    "state-spaces/mamba:mamba_ssm.Mamba2",
)

DEFAULTS = {
    "d_model": ...,
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
    "dt_rank": "auto",
    "dt_min": 0.001,
    "dt_max": 0.1,
    "dt_init": "random",
    "dt_scale": 1.0,
    "dt_init_floor": 1e-4,
    "conv_bias": True,
    "bias": False,
}
DEFAULTS2 = {
    "d_model": ...,
    "d_state": 128,
    "d_conv": 4,
    "conv_init": None,
    "expand": 2,
    "headdim": 64,
    "d_ssm": None,
    "ngroups": 1,
    "A_init_range": (1, 16),
    "D_has_hdim": False,
    "rmsnorm": True,
    "norm_before_gate": False,
    "dt_min": 0.001,
    "dt_max": 0.1,
    "dt_init_floor": 1e-4,
    "dt_limit": (0.0, float("inf")),
    "bias": False,
    "conv_bias": True,
    "chunk_size": 256,
}
RENAMED2 = {"headdim": "head_dim", "ngroups": "num_groups", "D_has_hdim": "D_per_channel"}
"""The original's names of options, where seqconv's differ."""

LARGEST = torch.finfo(torch.float32).max
"""A limit that limits nothing; configurations hold no infinities."""

IGNORED = ("layer", "layer_idx", "device", "dtype", "batch", "seqlen", "seed")
IGNORED1 = (*IGNORED, "use_fast_path")
IGNORED2 = (*IGNORED, "use_mem_eff_path", "process_group", "sequence_parallel")
LAYERS = {MAMBA: (None, "Mamba1"), MAMBA2: (None, "Mamba2")}
"""Values of ``layer`` in a model's ``ssm_cfg`` that mean the layer."""


def _check(original: str, hyper: Mapping[str, Any]) -> None:
    """Raise for another layer's configuration, and for a part of a layer."""
    layer, group = hyper.get("layer"), hyper.get("process_group")
    if layer not in LAYERS[original] or group is not None:
        got = f"layer={layer!r}, process_group={group}"
        wanted = f"layer {LAYERS[original][1]!r}, whole (process_group=None)"
        raise argument_error(f"from_original({original!r})", got, wanted, "gather the weights, or name the other layer")


def mamba_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for the original's."""
    _check(MAMBA, hyper)
    return _floats(vars(options(MAMBA, hyper, DEFAULTS, IGNORED1)))


def build_mamba(**hyper: Any) -> Mamba:
    """The module for the original's arguments."""
    return Mamba(**mamba_options(**hyper))


def convert_mamba(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors: the same names, but for the bias of the time step."""
    o = options(MAMBA, hyper, DEFAULTS, IGNORED1)
    names = ["in_proj.weight", "x_proj.weight", "dt_proj.weight", "A_log", "D", "out_proj.weight"]
    converted = {"dt_bias": weights.take("dt_proj.bias")} | _take(weights, names + _biases(o.bias))
    return converted | convert_convolution(weights, o.conv_bias)


def mamba2_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for the original's; infinite limits of the time step become none."""
    _check(MAMBA2, hyper)
    o = _floats(vars(options(MAMBA2, hyper, DEFAULTS2, IGNORED2)))
    o = {RENAMED2.get(name, name): value for name, value in o.items()}
    least, largest = (float(limit) for limit in o["dt_limit"])
    unlimited = (least, largest) == (0.0, float("inf"))
    largest = min(largest, LARGEST)
    initial = tuple(float(bound) for bound in o["A_init_range"])
    return {**o, "dt_limit": None if unlimited else (least, largest), "A_init_range": initial}


def build_mamba2(**hyper: Any) -> Mamba2:
    """The module for the original's arguments."""
    return Mamba2(**mamba2_options(**hyper))


def convert_mamba2(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors under the same names; a skip per channel is split into heads."""
    o = options(MAMBA2, hyper, DEFAULTS2, IGNORED2)
    names = ["in_proj.weight", "dt_bias", "A_log", "out_proj.weight", *["norm.weight"] * o.rmsnorm]
    skip = weights.take("D")
    per_head = {"D": skip.unflatten(0, (-1, o.headdim)) if o.D_has_hdim else skip}
    return per_head | _take(weights, names + _biases(o.bias)) | convert_convolution(weights, o.conv_bias)


def convert_convolution(weights: Weights, bias: bool) -> dict[str, Tensor]:
    """The short convolution: (channels, 1, width) to (channels, width)."""
    taps = {"conv1d.weight": weights.take("conv1d.weight").squeeze(1)}
    return taps | ({"conv1d.bias": weights.take("conv1d.bias")} if bias else {})


def _floats(o: dict[str, Any]) -> dict[str, Any]:
    """Real numbers that were given as integers, as what they are."""
    real = ("dt_min", "dt_max", "dt_scale", "dt_init_floor", "conv_init")
    return {name: float(value) if name in real and value is not None else value for name, value in o.items()}


def _biases(bias: bool) -> list[str]:
    return ["in_proj.bias", "out_proj.bias"] if bias else []


def _take(weights: Weights, names: list[str]) -> dict[str, Tensor]:
    return {name: weights.take(name) for name in names}


add_importer(*MAMBA_NAMES, build=build_mamba, convert=convert_mamba)
add_importer(*MAMBA2_NAMES, build=build_mamba2, convert=convert_mamba2)
