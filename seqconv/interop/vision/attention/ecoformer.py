"""ziplab/EcoFormer: attention of codes, over sequences.

Read in ``pvt/performer.py`` (EcoformerSelfAttention, EcoformerFastAttention, linear_attention_bias) and
``pvt/hashing/ksh.py`` (KernelSH) at a277f9e8. The hash function must be trained; its bits and anchors, ``nbits`` and
``m`` there, come from the original's settings. The matrix of random features is stored and never read.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....vision.mixers.attention.hashed import HashedAttention
from ...importer import Weights, add_importer, options

ORIGINAL = "ziplab/EcoFormer:EcoformerSelfAttention"
DEFAULTS: Mapping[str, Any] = {"dim": ..., "num_heads": 8, "qkv_bias": False, "nbits": 16, "m": 25}
IGNORED = (
    "N", "map", "qk_scale", "attn_drop", "proj_drop", "nb_features", "generalized_attention", "kernel_fn",
    "no_projection", "sr_ratio", "linear", "topk",
)  # fmt: skip
"""Sizes of a test's input, and what the layer takes and does not read."""
PROJECTIONS = {"qk_proj": "to_qk", "v_proj": "to_v", "out_proj": "proj"}


def build(**hyper: Any) -> HashedAttention:
    """The attention with the options of the original, as its code computes it."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    sizes = {"num_heads": o.num_heads, "num_bits": o.nbits, "num_anchors": o.m}
    return HashedAttention(o.dim, bias=o.qkv_bias, own_value=True, **sizes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the attention; the hash function has no gradient."""
    o, hashing = options(ORIGINAL, hyper, DEFAULTS, IGNORED), weights.part("fast_attention.ksh.")
    weights.ignore("fast_attention.projection_matrix")
    converted = {
        "hash_weight": hashing.take("A").detach(),
        "anchors": hashing.take("anchor")[0].detach(),
        "mean": hashing.take("mvec")[0, :, 0].detach(),
    }
    for name, source in PROJECTIONS.items():
        converted[f"{name}.weight"] = weights.take(f"{source}.weight")
        if name == "out_proj" or o.qkv_bias:
            converted[f"{name}.bias"] = weights.take(f"{source}.bias")
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """Sizes, from the shapes of the tensors."""
    if "fast_attention.ksh.A" not in weights:
        return {}
    heads, bits, anchors = weights.peek("fast_attention.ksh.A").shape
    bias = "to_qk.bias" in weights
    return {"dim": len(weights.peek("proj.weight")), "num_heads": heads, "nbits": bits, "m": anchors, "qkv_bias": bias}


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
