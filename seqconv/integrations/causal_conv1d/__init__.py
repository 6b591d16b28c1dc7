"""seqconv's convolution under the signatures of the package causal_conv1d (Dao-AILab/causal-conv1d, 1.6.1).

``install()`` puts it under that import name, where the package is absent; ``uninstall()`` takes it away.
"""

from .. import installing
from . import interface, varlen
from .interface import causal_conv1d_fn, causal_conv1d_ref, causal_conv1d_update, causal_conv1d_update_ref
from .varlen import causal_conv1d_varlen_states, causal_conv1d_varlen_states_ref

__all__ = [
    "causal_conv1d_fn",
    "causal_conv1d_ref",
    "causal_conv1d_update",
    "causal_conv1d_update_ref",
    "causal_conv1d_varlen_states",
    "causal_conv1d_varlen_states_ref",
    "install",
    "uninstall",
]

_SHIM = installing.Shim(
    "causal_conv1d",
    "1.6.1",
    {
        "causal_conv1d": installing.exports(interface, "causal_conv1d_fn causal_conv1d_update"),
        "causal_conv1d.causal_conv1d_interface": installing.exports(
            interface, "causal_conv1d_fn causal_conv1d_ref causal_conv1d_update causal_conv1d_update_ref"
        ),
        "causal_conv1d.causal_conv1d_varlen": installing.exports(
            varlen, "causal_conv1d_varlen_states causal_conv1d_varlen_states_ref"
        ),
    },
)

install = _SHIM.install
uninstall = _SHIM.uninstall
