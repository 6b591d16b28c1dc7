"""Reading the gated linear attention layer of fla-org/flash-linear-attention."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..mixers.gla import GatedLinearAttention
from .importer import Weights, add_importer, options

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

ACTIVATIONS = {"swish": "silu", "gelu": "gelu_tanh", "gelu_new": "gelu_tanh", "sqrelu": "relu2", None: None}
"""Their names of activations, where ours differ."""


def gla_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of our module for theirs."""
    o = vars(options(ORIGINAL, hyper, DEFAULTS, IGNORED))
    del o["fuse_norm"]
    for name in ("feature_map", "gate_fn"):
        o[name] = ACTIVATIONS.get(o[name], o[name])
    for name in ("norm_eps", "clamp_min"):
        o[name] = None if o[name] is None else float(o[name])
    return {"d_model": o.pop("hidden_size"), **o}


def build(**hyper: Any) -> GatedLinearAttention:
    """Our module for their arguments."""
    return GatedLinearAttention(**gla_options(**hyper))


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Their tensors as ours; the three short convolutions become one."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    ours = {f"{name}.weight": weights.take(f"{name}.weight") for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    ours["decay_down.weight"] = weights.take("gk_proj.0.weight")
    ours["decay_up.weight"] = weights.take("gk_proj.1.weight")
    ours["decay_up.bias"] = weights.take("gk_proj.1.bias")
    if o.use_output_gate:
        ours["gate_proj.weight"] = weights.take("g_proj.weight")
    if o.elementwise_affine:
        fused = o.gate_fn == "swish" and o.fuse_norm and o.use_output_gate
        ours["norm.weight"] = weights.take("g_norm_swish_gate.weight" if fused else "g_norm.weight")
    if o.use_short_conv:
        ours["conv.weight"] = torch.cat([weights.take(f"{part}_conv1d.weight").squeeze(1) for part in "qkv"])
        if o.conv_bias:
            ours["conv.bias"] = torch.cat([weights.take(f"{part}_conv1d.bias") for part in "qkv"])
    return ours


add_importer(*NAMES, build=build, convert=convert)
