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


def attention_options(
    original: str, known: Mapping[str, Any], hyper: Mapping[str, Any], activations: Mapping[str, str] = ACTIVATIONS
) -> dict[str, Any]:
    """Arguments of a ``GatedAttentionLayer`` for the original's."""
    o = vars(options(original, hyper, known, IGNORED))
    del o["fuse_norm"]
    taps = o.pop("conv_size")
    o["d_conv"] = taps if o.pop("use_short_conv") else None
    o = {RENAMED.get(name, name): value for name, value in o.items()}
    for name in ("feature_map", "gate_activation"):
        if o[name] is None and name == "feature_map":
            continue
        if o[name] not in activations:
            raise unknown_name(f"from_original({original!r})", name, str(o[name]), activations)
        o[name] = activations[o[name]]
    for name in {"norm_eps", "clamp_min"} & o.keys():
        o[name] = None if o[name] is None else float(o[name])
    return o


def attention_weights(w: Weights, o: Any, *, gate: bool = True) -> dict[str, Tensor]:
    """Projections, norm and short convolutions (three there, one here); ``gate``: whether the output is gated."""
    converted = {f"{name}_proj.weight": w.take(f"{name}_proj.weight") for name in ["q", "k", "v", "o"] + ["g"] * gate}
    if o.elementwise_affine:
        fused = o.gate_fn == "swish" and o.fuse_norm and gate
        converted["g_norm.weight"] = w.take("g_norm_swish_gate.weight" if fused else "g_norm.weight")
    return converted | short_convolution(w, o, "qkv")


def short_convolution(w: Weights, o: Any, parts: str) -> dict[str, Tensor]:
    """The taps of one convolution over all channels from those of one per part."""
    if not o.use_short_conv:
        return {}
    found = {"conv1d.weight": torch.cat([w.take(f"{part}_conv1d.weight").squeeze(1) for part in parts])}
    if o.conv_bias:
        found["conv1d.bias"] = torch.cat([w.take(f"{part}_conv1d.bias") for part in parts])
    return found


def build(**hyper: Any) -> GatedLinearAttention:
    """The module for the original's arguments."""
    return GatedLinearAttention(**attention_options(ORIGINAL, DEFAULTS, hyper))


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors; the three short convolutions become one."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    same = ("gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias")
    return {name: weights.take(name) for name in same} | attention_weights(weights, o, gate=o.use_output_gate)


add_importer(*NAMES, build=build, convert=convert)
