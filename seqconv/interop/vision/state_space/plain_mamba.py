"""ChenhongyiYang/PlainMamba: the mixer.

Read in ``mmcls/plain_mamba_dev/models/plain_mamba/plain_mamba_layer.py`` (PlainMamba2D) at 0975a1d0. The original adds
the bias of the time step twice, in its projection and in the scan, and takes the time steps and weights of raster cells
in all directions; both are kept. A layer scale is multiplied into the last projection.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....vision.mixers.plain_mamba import PlainMamba2d
from ...importer import Weights, add_importer, options

ORIGINAL = "ChenhongyiYang/PlainMamba:PlainMamba2D"
DEFAULTS: Mapping[str, Any] = {
    "d_model": ...,
    "d_state": 16,
    "expand": 2,
    "dt_rank": "auto",
    "conv_size": 7,
    "conv_bias": True,
    "bias": False,
    "init_layer_scale": None,
}
IGNORED = ("default_hw_shape", "dt_init", "dt_scale", "dt_min", "dt_max", "dt_init_floor")


def build(**hyper: Any) -> PlainMamba2d:
    """The mixer with the options of the original."""
    o = _options(hyper)
    sizes = {"d_state": o.d_state, "expand": o.expand, "dt_rank": o.dt_rank, "d_conv": o.conv_size}
    return PlainMamba2d(o.d_model, selection="raster", bias=o.bias, conv_bias=o.conv_bias, **sizes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original."""
    o = _options(hyper)
    biased = ["in_proj.bias", "out_proj.bias"] if o.bias else []
    biased += ["conv2d.bias"] if o.conv_bias else []
    names = ["in_proj.weight", "out_proj.weight", "conv2d.weight", "x_proj.weight", "dt_proj.weight"]
    converted = {name: weights.take(name) for name in [*names, *biased, "A_log", "D"]}
    if o.init_layer_scale is not None:
        scale = weights.take("gamma")
        converted["out_proj.weight"] = scale[:, None] * converted["out_proj.weight"]
        converted |= {"out_proj.bias": scale * converted["out_proj.bias"]} if o.bias else {}
    return converted | {"dt_bias": 2 * weights.take("dt_proj.bias"), "move_B": weights.take("direction_Bs")}


def _options(hyper: Mapping[str, Any]) -> Any:
    return options(ORIGINAL, hyper, DEFAULTS, IGNORED)


add_importer(ORIGINAL, build=build, convert=convert)
