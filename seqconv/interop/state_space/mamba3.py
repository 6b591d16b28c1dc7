"""Reading Mamba-3 of state-spaces/mamba (``mamba_ssm/modules/mamba3.py`` at e9594ce1).

A copy of it in fla, and earlier versions, have ``A = -softplus(a)``: their checkpoints are those of another function.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...mixers.state_space.mamba3 import Mamba3
from ..importer import Weights, add_importer, options

ORIGINAL = "state-spaces/mamba:Mamba3"
DEFAULTS = {
    "d_model": ..., "d_state": 128, "expand": 2, "headdim": 64, "ngroups": 1, "rope_fraction": 0.5, "dt_min": 0.001,
    "dt_max": 0.1, "dt_init_floor": 1e-4, "A_floor": 1e-4, "is_outproj_norm": False, "is_mimo": False, "mimo_rank": 4,
}  # fmt: skip
IGNORED = ("chunk_size", "dropout", "layer_idx", "n_layer", "device", "dtype", "fuse_pregate_headwise_norm", "seed")
"""What changes speed, or what the layer takes and does not read."""


def build(**hyper: Any) -> Mamba3:
    """The module for the original's arguments."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    return Mamba3(
        o.d_model,
        d_state=o.d_state,
        expand=o.expand,
        head_dim=o.headdim,
        num_groups=o.ngroups,
        mimo_rank=o.mimo_rank if o.is_mimo else None,
        rope_fraction=o.rope_fraction,
        outproj_norm=o.is_outproj_norm,
        A_floor=o.A_floor,
        dt_min=o.dt_min,
        dt_max=o.dt_max,
        dt_init_floor=o.dt_init_floor,
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names and shapes are the original's."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    names = ["in_proj.weight", "dt_bias", "B_bias", "C_bias", "B_norm.weight", "C_norm.weight", "D", "out_proj.weight"]
    names += ["mimo_x", "mimo_z", "mimo_o"] * o.is_mimo + ["norm.weight"] * o.is_outproj_norm
    return {name: weights.take(name) for name in names}


add_importer(ORIGINAL, build=build, convert=convert)
