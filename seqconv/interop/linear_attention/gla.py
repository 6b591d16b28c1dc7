"""Reading the gated linear attention layer of fla-org/flash-linear-attention.

Every option was read in the original at bc3b101: ``fla/layers/gla.py``, ``ACT2FN`` of ``fla/modules/activations.py``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import unknown_name

from ...mixers.linear_attention.gla import GatedLinearAttention
from ..importer import Weights, add_importer, options

ORIGINAL = "fla-org/flash-linear-attention:GatedLinearAttention"
NAMES = (
    ORIGINAL,
    "fla-org/flash-linear-attention:fla.layers.GatedLinearAttention",
    "fla-org/flash-linear-attention:fla.layers.gla.GatedLinearAttention",
    "fla-org/flash-linear-attention:fla/layers/gla.py:GatedLinearAttention",
    "fla-org/flash-linear-attention:gla.py:GatedLinearAttention",
)
DEFAULTS = {
    "hidden_size": 1024,
    "expand_k": 0.5,
    "expand_v": 1.0,
    "num_heads": 4,
    "num_kv_heads": None,
    "feature_map": None,
    "use_short_conv": False,
    "conv_size": 4,
    "conv_bias": False,
    "use_output_gate": True,
    "gate_fn": "swish",
    "elementwise_affine": True,
    "norm_eps": 1e-5,
    "gate_logit_normalizer": 16,
    "gate_low_rank_dim": 16,
    "clamp_min": None,
    "fuse_norm": True,
}
IGNORED = ("mode", "layer_idx", "batch", "seqlen", "seed")

RENAMED = {"hidden_size": "d_model", "gate_fn": "gate_activation", "elementwise_affine": "norm_affine"}
"""The original's names of options, where seqconv's differ."""

ACTIVATIONS = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "logsigmoid": "logsigmoid",
    "silu": "silu",
    "swish": "silu",
    "sqrelu": "relu2",
    "gelu": "gelu_tanh",
}
"""The original's names of activations (``ACT2FN`` without ``bias_gelu``, which takes two arguments), and seqconv's."""


def gla_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for the original's."""
    o = vars(options(ORIGINAL, hyper, DEFAULTS, IGNORED))
    del o["fuse_norm"]
    taps = o.pop("conv_size")
    o["d_conv"] = taps if o.pop("use_short_conv") else None
    o = {RENAMED.get(name, name): value for name, value in o.items()}
    for name in ("feature_map", "gate_activation"):
        if o[name] is None and name == "feature_map":
            continue
        if o[name] not in ACTIVATIONS:
            raise unknown_name(f"from_original({ORIGINAL!r})", name, str(o[name]), ACTIVATIONS)
        o[name] = ACTIVATIONS[o[name]]
    for name in ("norm_eps", "clamp_min"):
        o[name] = None if o[name] is None else float(o[name])
    return o


def build(**hyper: Any) -> GatedLinearAttention:
    """The module for the original's arguments."""
    return GatedLinearAttention(**gla_options(**hyper))


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors; the three short convolutions become one."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    same = [*(f"{name}_proj.weight" for name in "qkvo"), "gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias"]
    same += ["g_proj.weight"] * o.use_output_gate
    converted = {name: weights.take(name) for name in same}
    if o.elementwise_affine:
        fused = o.gate_fn == "swish" and o.fuse_norm and o.use_output_gate
        converted["g_norm.weight"] = weights.take("g_norm_swish_gate.weight" if fused else "g_norm.weight")
    if o.use_short_conv:
        taps = [weights.take(f"{part}_conv1d.weight").squeeze(1) for part in "qkv"]
        converted["conv1d.weight"] = torch.cat(taps)
        if o.conv_bias:
            converted["conv1d.bias"] = torch.cat([weights.take(f"{part}_conv1d.bias") for part in "qkv"])
    return converted


add_importer(*NAMES, build=build, convert=convert)
