"""Reading the attention of ZAYA (``models/zaya/modeling_zaya.py`` of transformers 5.23.0)."""

from ast import literal_eval
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.attention.cca import CompressedConvolutionalAttention
from ..importer import Weights, add_importer, options

ORIGINAL = "huggingface/transformers:ZayaAttention"
DEFAULTS = {
    "hidden_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "cca_time0": 2,
    "cca_time1": 2, "attention_bias": False, "rope": ..., "layer_type": "hybrid", "sliding_window": None,
}  # fmt: skip
IGNORED = ("vocab_size", "num_hidden_layers", "layer_idx", "attention_dropout", "seed")
"""Values that the layer does not read, and dropout in training."""


def build(**hyper: Any) -> CompressedConvolutionalAttention:
    """The module for the values of the original's configuration.

    ``rope`` is its ``rope_parameters``: for every kind of layer (``layer_type`` says which this one is) base and share
    of the channels that rotate; or those values written as a string.
    """
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    rope = literal_eval(o.rope) if isinstance(o.rope, str) else o.rope
    if o.layer_type not in rope or rope[o.layer_type].get("rope_type", "default") != "default":
        got = f"layer_type={o.layer_type!r} with rope={rope!r}"
        raise argument_error(f"from_original({ORIGINAL!r})", got, "its default rotation", "correct the configuration")
    rotation = rope[o.layer_type]
    return CompressedConvolutionalAttention(
        o.hidden_size,
        num_heads=o.num_attention_heads,
        num_kv_heads=o.num_key_value_heads,
        head_dim=o.head_dim,
        d_conv=o.cca_time0,
        d_conv_grouped=o.cca_time1,
        bias=o.attention_bias,
        rotary_base=rotation["rope_theta"],
        rotary_dim=int(o.head_dim * rotation.get("partial_rotary_factor", 1.0)),
        window=o.sliding_window if o.layer_type == "hybrid_sliding" else None,
    )


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names differ."""
    bias = options(ORIGINAL, hyper, DEFAULTS, IGNORED).attention_bias
    kinds = ["weight"] + ["bias"] * bias
    part = weights.part("qkv_proj.")
    found = {f"o_proj.{kind}": weights.take(f"o_proj.{kind}") for kind in kinds} | {
        "temp": weights.take("qk_norm.temp")
    }
    for name in ("q_proj", "k_proj", "v_proj_current", "v_proj_delayed"):
        found |= {f"{name}.{kind}": part.take(f"{name}.{kind}") for kind in kinds}
    for name in ("depthwise", "grouped"):
        found |= {f"conv_{name}.{kind}": part.take(f"conv_qk_{name}.{kind}") for kind in ("weight", "bias")}
    return found


add_importer(ORIGINAL, build=build, convert=convert)
