"""MzeroMiko/VMamba: SS2D.

Read in ``vmamba.py`` at 2ed52ead. ``v01`` to ``v05`` and ``_no32`` differ in the kernels and in rounding, not in the
equation; ``v051d``, ``v052d`` and ``v052d3`` in the orders of the scans. Other output norms and activations are
unsupported. ``channel_first`` changes the layout alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.mixers.ss2d import CROSS_SCAN, SS2D
from ...importer import Weights, add_importer, options

ORIGINAL = "MzeroMiko/VMamba:SS2D"
DEFAULTS: Mapping[str, Any] = {
    "d_model": 96,
    "d_state": 16,
    "ssm_ratio": 2.0,
    "dt_rank": "auto",
    "d_conv": 3,
    "conv_bias": True,
    "dropout": 0.0,
    "bias": False,
    "dt_min": 0.001,
    "dt_max": 0.1,
    "dt_init": "random",
    "dt_scale": 1.0,
    "dt_init_floor": 1e-4,
    "forward_type": "v2",
    "act_layer": "silu",
    "initialize": "v0",
}
INITIALISATIONS: Mapping[str, str] = {"v0": "s4d", "v1": "normal", "v2": "uniform"}
IGNORED = ("channel_first", "force_fp32")
TIME_STEPS = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor")
"""Initial ones; the first version has its own, whatever it is given."""
GATES: Mapping[str, str] = {
    "v0": "silu",
    "v0seq": "silu",
    **{
        f"{version}{suffix}{rounding}": gate
        for version in ("v01", "v02", "v03", "v04", "v05", "v051d", "v052d", "v052d3", "v2", "v3")
        for suffix, gate in (("", "silu"), ("_noz", "none"), ("_nozact", "linear"))
        for rounding in ("", "_no32")
    },
}
"""The gate of every forward type whose equation was checked."""
ORDERS: Mapping[str, Sequence[str]] = {
    "v051d": ("row",) * 4,
    "v052d": ("row", "row", "row_reversed", "row_reversed"),
    "v052d3": ("row", "row_rotated", "row_rotated_rotated", "row_rotated_rotated_rotated"),
}
"""Of forward types with other orders than VMamba's cross."""


def ss2d_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for the original's."""
    o = _options(hyper)
    first = o.forward_type in ("v0", "v0seq")  # the first version has a biased 3 by 3 convolution whatever it is given
    return {
        "d_model": o.d_model,
        "d_state": o.d_state,
        "expand": float(o.ssm_ratio),
        "dt_rank": o.dt_rank,
        "d_conv": 3 if first else max(1, o.d_conv),
        "conv_bias": first or o.conv_bias,
        "bias": o.bias and not first,
        "gate": GATES[o.forward_type],
        "orders": ORDERS.get(o.forward_type.split("_")[0], CROSS_SCAN),
        "initialisation": "s4d" if first else INITIALISATIONS[o.initialize],
        **{name: DEFAULTS[name] if first else getattr(o, name) for name in TIME_STEPS},
        "dropout": float(o.dropout),
    }


def build(**hyper: Any) -> SS2D:
    """The mixer with the options of the original."""
    return SS2D(**ss2d_options(**hyper))


def convert(weights: Weights, hyper: Mapping[str, Any], *, projection: str = ".weight") -> dict[str, Tensor]:
    """The state dict of the mixer from that of the original, of either version and layout.

    ``projection`` ends the names of the projections' weights.
    """
    o = ss2d_options(**hyper)
    converted = {name: weights.take(name) for name in ("out_norm.weight", "out_norm.bias")}
    for name in ("in_proj", "out_proj"):
        converted[f"{name}.weight"] = weights.take(f"{name}{projection}").flatten(1)
        converted |= {f"{name}.bias": weights.take(f"{name}.bias")} if o["bias"] else {}
    if o["d_conv"] > 1:
        converted["conv2d.weight"] = weights.take("conv2d.weight")
        converted |= {"conv2d.bias": weights.take("conv2d.bias")} if o["conv_bias"] else {}
    bias = weights.take("dt_projs_bias")
    directions, inner = bias.shape
    converted["x_proj.weight"] = _either(weights, "x_proj").reshape(-1, inner)
    converted["dt_proj.weight"] = _either(weights, "dt_projs").reshape(directions, inner, -1)
    converted["dt_bias"] = bias
    converted["A_log"] = weights.take("A_logs").unflatten(0, (directions, inner))
    return converted | {"D": weights.take("Ds").view(directions, inner)}


def _either(weights: Weights, name: str) -> Tensor:
    """A weight under its name in modules, or under that of the first version's parameters."""
    return weights.take(f"{name}_weight" if f"{name}_weight" in weights else f"{name}.weight")


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.forward_type not in GATES or o.act_layer != "silu" or o.initialize not in INITIALISATIONS:
        got = f"forward_type={o.forward_type!r}, act_layer={o.act_layer!r}, initialize={o.initialize!r}"
        wanted = f"a forward type that was checked: {', '.join(GATES)}; act_layer 'silu'"
        raise argument_error(
            f"from_original({ORIGINAL!r})", got, wanted, "train one of these, or use seqconv's options"
        )
    return o


add_importer(ORIGINAL, build=build, convert=convert)
