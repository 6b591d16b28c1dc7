"""Reading log-linear Mamba-2 of fla-org/flash-linear-attention at bc3b101d, fla/layers/log_linear_mamba2.py.

The original has options that its own forward pass does not take, or takes in training or evaluation alone; they raise
here: ``rmsnorm=False``, ``norm_before_gate``, ``D_has_hdim``, time step limits, more than one group.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.linear_attention.log_linear_mamba2 import NUM_LEVELS, LogLinearMamba2
from ..importer import Weights, add_importer, options

ORIGINAL = "fla-org/flash-linear-attention:LogLinearMamba2"
FIXED: dict[str, Any] = {
    "n_groups": 1, "rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "dt_limit": (0.0, math.inf),
    "chunk_size": 64,
}  # fmt: skip
"""Options whose only verified value is the default."""
DEFAULTS: dict[str, Any] = {
    "num_heads": ..., "head_dim": 64, "hidden_size": 2048, "state_size": 128, "expand": 2, "conv_kernel": 4,
    "conv_init": None, "use_conv_bias": False, "hidden_act": "silu", "dt_min": 0.001, "dt_max": 0.1,
    "dt_init_floor": 1e-4, "use_bias": True, "norm_eps": 1e-5, **FIXED,
}  # fmt: skip
IGNORED = ("layer_idx", "backend", "seed")


def _build(**hyper: Any) -> LogLinearMamba2:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    for name, value in FIXED.items():
        given = getattr(o, name)
        if (tuple(given) if isinstance(value, tuple) else given) != value:
            remedy = "import a layer of the default"
            raise argument_error(f"from_original({ORIGINAL!r})", f"{name}={given!r}", f"{name}={value!r}", remedy)
    if o.hidden_act not in ("silu", "swish") or o.num_heads * o.head_dim != int(o.expand * o.hidden_size):
        got = f"hidden_act={o.hidden_act!r}, num_heads={o.num_heads}, head_dim={o.head_dim}, expand={o.expand}"
        wanted = "silu, and heads that make up expand times hidden_size"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "correct the options")
    return LogLinearMamba2(
        o.hidden_size,
        d_state=o.state_size,
        d_conv=o.conv_kernel,
        conv_init=o.conv_init,
        expand=o.expand,
        head_dim=o.head_dim,
        num_levels=NUM_LEVELS,
        norm_eps=float(o.norm_eps),
        dt_min=o.dt_min,
        dt_max=o.dt_max,
        dt_init_floor=o.dt_init_floor,
        bias=o.use_bias,
        conv_bias=o.use_conv_bias,
    )


def _convert(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names are kept."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    same = ["in_proj.weight", "out_proj.weight", "norm.weight", "dt_bias", "A_log", "D", "L"]
    same += ["in_proj.bias", "out_proj.bias"] * o.use_bias + ["conv1d.bias"] * o.use_conv_bias
    return {name: w.take(name) for name in same} | {"conv1d.weight": w.take("conv1d.weight").squeeze(1)}


add_importer(ORIGINAL, build=_build, convert=_convert)
