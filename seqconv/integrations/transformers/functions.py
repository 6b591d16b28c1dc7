"""Which functions of transformers' modelling code run on which op, by the names of transformers' own definitions.

Every modelling file defines the readable form of each kernel itself and decorates it with
``use_kernel_func_from_hub_with_fallback(kernel, package)``; its layers look the name up in the file's globals at every
call. The names below are those definitions, the same in all files and releases from 5.17 on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..installing import is_shim
from . import convolution, delta_rule, selective_scan, ssd


@dataclass(frozen=True)
class Function:
    """A replacement.

    Attributes:
        kernel: name under which the original package has it.
        package: the original package.
        run: takes the call of the layer, then the arguments of the original.
    """

    kernel: str
    package: str
    run: Callable[..., Any]

    def installed(self) -> bool:
        """Whether the original package can be found, and not seqconv's under its name."""
        if is_shim(self.package):
            return False
        try:
            return find_spec(self.package) is not None
        except ValueError:  # in sys.modules without a specification
            return True


_CONV = Function("causal_conv1d_fn", "causal_conv1d", convolution.causal_conv1d_fn)
_CONV_STEP = Function("causal_conv1d_update", "causal_conv1d", convolution.causal_conv1d_update)
_SCAN = Function("selective_scan_fn", "mamba_ssm", selective_scan.selective_scan_fn)
_INNER = Function("mamba_inner_fn", "mamba_ssm", selective_scan.mamba_inner_fn)
_STEP = Function("selective_state_update", "mamba_ssm", ssd.selective_state_update)
_CHUNKS = Function("mamba_chunk_scan_combined", "mamba_ssm", ssd.mamba_chunk_scan_combined)
_SPLIT = Function("mamba_split_conv1d_scan_combined", "mamba_ssm", ssd.mamba_split_conv1d_scan_combined)
_DELTA = Function("chunk_gated_delta_rule", "fla", delta_rule.chunk_gated_delta_rule)
_DELTA_STEP = Function("fused_recurrent_gated_delta_rule", "fla", delta_rule.fused_recurrent_gated_delta_rule)
_KDA = Function("chunk_kda", "fla", delta_rule.chunk_gated_delta_rule)
_KDA_STEP = Function("fused_recurrent_kda", "fla", delta_rule.fused_recurrent_gated_delta_rule)

FUNCTIONS = {
    "causal_conv1d_fn": _CONV,
    "causal_conv1d_update": _CONV_STEP,
    "mamba_selective_scan": _SCAN,
    "mamba_inner_fn": _INNER,
    "mamba_selective_state_update": _STEP,
    "mamba2_selective_state_update": _STEP,
    "mamba2_chunk_scan": _CHUNKS,
    "mamba2_split_conv1d_scan_combined": _SPLIT,
    "torch_chunk_gated_delta_rule": _DELTA,
    "torch_recurrent_gated_delta_rule": _DELTA_STEP,
    "chunk_kimi_delta_attention": _KDA,
    "recurrent_kimi_delta_attention": _KDA_STEP,
}
