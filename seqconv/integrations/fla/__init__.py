"""seqconv's ops under the signatures of the package fla (fla-org/flash-linear-attention).

``install()`` puts them under that import name, where the package is absent; ``uninstall()`` takes them away.
"""

from typing import Any

from .. import installing
from . import (
    attention,
    decoding,
    delta_rule,
    gates,
    gdn2,
    generalised,
    linear_attention,
    mesa_net,
    padding,
    preconditioned,
    recurrent,
    retention,
)
from .attention import chunk_log_linear_attn, parallel_path_attn
from .decoding import fused_recurrent_kda_fwd
from .delta_rule import (
    chunk_delta_rule,
    chunk_gated_delta_rule,
    chunk_gdn,
    chunk_kda,
    fused_chunk_delta_rule,
    fused_recurrent_delta_rule,
    fused_recurrent_gated_delta_rule,
    fused_recurrent_gdn,
    fused_recurrent_kda,
)
from .gdn2 import chunk_gdn2, fused_recurrent_gdn2, fused_recurrent_gdn2_fwd
from .generalised import (
    chunk_comba,
    chunk_dplr_delta_rule,
    chunk_gated_delta_product,
    chunk_iplr_delta_rule,
    chunk_rwkv7,
    fused_mul_recurrent_rwkv7,
    fused_recurrent_comba,
    fused_recurrent_dplr_delta_rule,
    fused_recurrent_iplr_delta_rule,
    fused_recurrent_rwkv7,
)
from .linear_attention import (
    chunk_gla,
    chunk_linear_attn,
    chunk_simple_gla,
    fused_chunk_gla,
    fused_chunk_linear_attn,
    fused_chunk_simple_gla,
    fused_recurrent_gla,
    fused_recurrent_linear_attn,
    fused_recurrent_simple_gla,
    parallel_simple_gla,
)
from .mesa_net import chunk_mesa_net, mesa_net_decoding_one_step
from .modules import convolution, norm_layers, norms
from .modules.convolution import ShortConvolution, causal_conv1d, causal_conv1d_update
from .modules.norm_layers import FusedLayerNormGated, FusedRMSNormGated, L2Norm, RMSNorm
from .modules.norms import l2norm, rms_norm_gated
from .preconditioned import (
    chunk_precond_gated_delta_rule,
    chunk_precond_kda,
    fused_recurrent_precond_gated_delta_rule,
    fused_recurrent_precond_kda,
    fused_recurrent_precond_kda_fwd,
)
from .recurrent import (
    chunk_hgrn,
    chunk_rwkv6,
    fused_recurrent_hgrn,
    fused_recurrent_rwkv4,
    fused_recurrent_rwkv6,
)
from .retention import (
    chunk_lightning_attn,
    chunk_retention,
    fused_chunk_retention,
    fused_recurrent_lightning_attn,
    fused_recurrent_retention,
    parallel_retention,
)

__all__ = [
    "FusedLayerNormGated",
    "FusedRMSNormGated",
    "L2Norm",
    "RMSNorm",
    "ShortConvolution",
    "causal_conv1d",
    "causal_conv1d_update",
    "chunk_comba",
    "chunk_delta_rule",
    "chunk_dplr_delta_rule",
    "chunk_gated_delta_product",
    "chunk_gated_delta_rule",
    "chunk_gdn",
    "chunk_gdn2",
    "chunk_gla",
    "chunk_hgrn",
    "chunk_iplr_delta_rule",
    "chunk_kda",
    "chunk_lightning_attn",
    "chunk_linear_attn",
    "chunk_log_linear_attn",
    "chunk_mesa_net",
    "chunk_precond_gated_delta_rule",
    "chunk_precond_kda",
    "chunk_retention",
    "chunk_rwkv6",
    "chunk_rwkv7",
    "chunk_simple_gla",
    "fused_chunk_delta_rule",
    "fused_chunk_gla",
    "fused_chunk_linear_attn",
    "fused_chunk_retention",
    "fused_chunk_simple_gla",
    "fused_mul_recurrent_rwkv7",
    "fused_recurrent_comba",
    "fused_recurrent_delta_rule",
    "fused_recurrent_dplr_delta_rule",
    "fused_recurrent_gated_delta_rule",
    "fused_recurrent_gdn",
    "fused_recurrent_gdn2",
    "fused_recurrent_gdn2_fwd",
    "fused_recurrent_gla",
    "fused_recurrent_hgrn",
    "fused_recurrent_iplr_delta_rule",
    "fused_recurrent_kda",
    "fused_recurrent_kda_fwd",
    "fused_recurrent_lightning_attn",
    "fused_recurrent_linear_attn",
    "fused_recurrent_precond_gated_delta_rule",
    "fused_recurrent_precond_kda",
    "fused_recurrent_precond_kda_fwd",
    "fused_recurrent_retention",
    "fused_recurrent_rwkv4",
    "fused_recurrent_rwkv6",
    "fused_recurrent_rwkv7",
    "fused_recurrent_simple_gla",
    "install",
    "l2norm",
    "mesa_net_decoding_one_step",
    "parallel_path_attn",
    "parallel_retention",
    "parallel_simple_gla",
    "rms_norm_gated",
    "uninstall",
]

_OPS = {
    "delta_rule": (delta_rule, "chunk_delta_rule fused_chunk_delta_rule fused_recurrent_delta_rule"),
    "gated_delta_rule": (
        delta_rule,
        "chunk_gated_delta_rule chunk_gdn fused_recurrent_gated_delta_rule fused_recurrent_gdn",
    ),
    "kda": (delta_rule, "chunk_kda fused_recurrent_kda"),
    "gdn2": (gdn2, "chunk_gdn2 fused_recurrent_gdn2"),
    "generalized_delta_rule": (
        generalised,
        "chunk_dplr_delta_rule chunk_iplr_delta_rule fused_recurrent_dplr_delta_rule fused_recurrent_iplr_delta_rule",
    ),
    "rwkv7": (generalised, "chunk_rwkv7 fused_mul_recurrent_rwkv7 fused_recurrent_rwkv7"),
    "comba": (generalised, "chunk_comba fused_recurrent_comba"),
    "gla": (linear_attention, "chunk_gla fused_chunk_gla fused_recurrent_gla"),
    "simple_gla": (
        linear_attention,
        "chunk_simple_gla fused_chunk_simple_gla fused_recurrent_simple_gla parallel_simple_gla",
    ),
    "retention": (
        retention,
        "chunk_retention fused_chunk_retention fused_recurrent_retention parallel_retention",
    ),
    "lightning_attn": (retention, "chunk_lightning_attn fused_recurrent_lightning_attn"),
    "linear_attn": (linear_attention, "chunk_linear_attn fused_chunk_linear_attn fused_recurrent_linear_attn"),
    "rwkv4": (recurrent, "fused_recurrent_rwkv4"),
    "rwkv6": (recurrent, "chunk_rwkv6 fused_recurrent_rwkv6"),
    "gated_delta_product": (generalised, "chunk_gated_delta_product"),
    "precond_gated_delta_rule": (
        preconditioned,
        "chunk_precond_gated_delta_rule fused_recurrent_precond_gated_delta_rule",
    ),
    "precond_kda": (preconditioned, "chunk_precond_kda fused_recurrent_precond_kda"),
    "mesa_net": (mesa_net, "chunk_mesa_net"),
    "path_attn": (attention, "parallel_path_attn"),
    "log_linear_attn": (attention, "chunk_log_linear_attn"),
    "hgrn": (recurrent, "chunk_hgrn fused_recurrent_hgrn"),
}
"""By the folder of ``fla/ops``."""

_FILES = {
    "chunk": ("chunk_",),
    "fused_chunk": ("fused_chunk_",),
    "fused_recurrent": ("fused_recurrent_", "fused_mul_recurrent_"),
    "parallel": ("parallel_",),
}
"""Files of a folder, and how the names in them begin."""

_CONVOLUTION = installing.exports(convolution, "ShortConvolution causal_conv1d causal_conv1d_update")

_NORMS = installing.exports(norms, "layer_norm rms_norm group_norm layer_norm_linear rms_norm_linear group_norm_linear")
_NORM_LAYERS = installing.exports(
    norm_layers, "LayerNorm RMSNorm GroupNorm LayerNormLinear RMSNormLinear GroupNormLinear"
)
_GATED_NORMS = installing.exports(
    norms, "layer_norm_gated rms_norm_gated layer_norm_swish_gate_linear rms_norm_swish_gate_linear"
)
_GATED_LAYERS = installing.exports(
    norm_layers,
    "FusedLayerNormGated FusedRMSNormGated FusedLayerNormSwishGate FusedRMSNormSwishGate "
    "FusedLayerNormSwishGateLinear FusedRMSNormSwishGateLinear",
)


_INDEX = installing.exports(
    padding,
    "prepare_chunk_indices prepare_chunk_offsets prepare_cu_seqlens_from_lens prepare_cu_seqlens_from_mask "
    "prepare_lens prepare_lens_from_mask prepare_position_ids prepare_sequence_ids prepare_token_indices",
)
_UNPADDING = installing.exports(
    padding,
    "get_unpad_data index_first_axis index_put_first_axis pad_input unpad_input "
    "repad_hidden_states unpad_hidden_states",
)


def _modules() -> dict[str, dict[str, Any]]:
    ops = {folder: installing.exports(*content) for folder, content in _OPS.items()}
    modules: dict[str, dict[str, Any]] = {
        "fla.ops": {name: f for content in ops.values() for name, f in content.items()},
        "fla.modules": {"ShortConvolution": ShortConvolution, "L2Norm": L2Norm, **_GATED_LAYERS, **_NORM_LAYERS},
        "fla.modules.convolution": _CONVOLUTION,
        "fla.modules.conv": _CONVOLUTION,
        "fla.modules.l2norm": {"l2norm": l2norm, "l2_norm": l2norm, "L2Norm": L2Norm},
        "fla.modules.fused_norm_gate": {**_GATED_LAYERS, **_GATED_NORMS},
        "fla.modules.layernorm": {**_NORM_LAYERS, **_NORMS},
        "fla.ops.utils": _INDEX,
        "fla.ops.utils.index": _INDEX,
        "fla.ops.kda.gate": installing.exports(gates, "fused_kda_gate"),
        "fla.ops.gated_delta_rule.gate": installing.exports(gates, "fused_gdn_gate"),
        "fla.layers.utils": _UNPADDING,
    }
    for folder, content in ops.items():
        modules[f"fla.ops.{folder}"] = content
        for name, function in content.items():
            file = next(file for file, begins in _FILES.items() if name.startswith(begins))
            below = f".{name.rsplit('_')[-3]}" if folder == "generalized_delta_rule" else ""  # dplr and iplr
            modules.setdefault(f"fla.ops.{folder}{below}.{file}", {})[name] = function
            modules.setdefault(f"fla.ops.{folder}{below}", {})[name] = function
    modules["fla.ops.kda.fused_recurrent"]["fused_recurrent_kda_fwd"] = decoding.fused_recurrent_kda_fwd
    kda = modules["fla.ops.precond_kda.fused_recurrent"]
    kda["fused_recurrent_precond_kda_fwd"] = preconditioned.fused_recurrent_precond_kda_fwd
    step = installing.exports(mesa_net, "mesa_net_decoding_one_step")
    modules["fla.ops.mesa_net"] |= step
    modules["fla.ops.mesa_net.decoding_one_step"] = step
    modules["fla.ops.path_attn.parallel"] |= installing.exports(attention, "parallel_path_attention")
    modules["fla.ops.gdn2.fused_recurrent"]["fused_recurrent_gdn2_fwd"] = gdn2.fused_recurrent_gdn2_fwd
    return modules


_SHIM = installing.Shim("fla", "0.5.2", _modules())

install = _SHIM.install
uninstall = _SHIM.uninstall
