"""seqconv's scans under the signatures of the package mamba_ssm (state-spaces/mamba, 2.3.2).

``install()`` puts them under that import name, where the package is absent; ``uninstall()`` takes them away.
"""

from .. import installing
from . import norms, selective_scan, ssd, state_update
from .mamba import Mamba
from .mamba2 import Mamba2
from .norms import layer_norm_fn, layer_norm_linear_fn, layernorm_fn, rms_norm_fn, rmsnorm_fn
from .selective_scan import mamba_inner_fn, mamba_inner_ref, selective_scan_fn, selective_scan_ref
from .ssd import (
    mamba_chunk_scan,
    mamba_chunk_scan_combined,
    mamba_split_conv1d_scan_combined,
    ssd_selective_scan,
)
from .state_update import selective_state_update, selective_state_update_ref

__all__ = [
    "Mamba",
    "Mamba2",
    "install",
    "layer_norm_fn",
    "layer_norm_linear_fn",
    "layernorm_fn",
    "mamba_chunk_scan",
    "mamba_chunk_scan_combined",
    "mamba_inner_fn",
    "mamba_inner_ref",
    "mamba_split_conv1d_scan_combined",
    "rms_norm_fn",
    "rmsnorm_fn",
    "selective_scan_fn",
    "selective_scan_ref",
    "selective_state_update",
    "selective_state_update_ref",
    "ssd_selective_scan",
    "uninstall",
]

_LAYER_NORM = installing.exports(norms, "layer_norm_fn rms_norm_fn layer_norm_linear_fn RMSNorm")
_GATED = installing.exports(norms, "layernorm_fn rmsnorm_fn")

_SHIM = installing.Shim(
    "mamba_ssm",
    "2.3.2.post1",
    {
        "mamba_ssm": {
            **installing.exports(selective_scan, "selective_scan_fn mamba_inner_fn"),
            "Mamba": Mamba,
            "Mamba2": Mamba2,
        },
        "mamba_ssm.modules.mamba_simple": {"Mamba": Mamba},
        "mamba_ssm.modules.mamba2": {"Mamba2": Mamba2},
        "mamba_ssm.ops.selective_scan_interface": installing.exports(
            selective_scan, "selective_scan_fn selective_scan_ref mamba_inner_fn mamba_inner_ref"
        ),
        "mamba_ssm.ops.triton.selective_state_update": installing.exports(
            state_update, "selective_state_update selective_state_update_ref"
        ),
        "mamba_ssm.ops.triton.ssd_combined": installing.exports(
            ssd,
            "mamba_chunk_scan mamba_chunk_scan_combined mamba_split_conv1d_scan_combined ssd_selective_scan",
        ),
        "mamba_ssm.ops.triton.layer_norm": _LAYER_NORM,
        "mamba_ssm.ops.triton.layernorm": _LAYER_NORM,  # its name before 2.0
        "mamba_ssm.ops.triton.layernorm_gated": {
            **_GATED,
            "LayerNorm": norms.GatedLayerNorm,
            "RMSNorm": norms.GatedRMSNorm,
        },
    },
)

install = _SHIM.install
uninstall = _SHIM.uninstall
