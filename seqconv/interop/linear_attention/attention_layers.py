"""Reading linear attention layers of fla-org/flash-linear-attention and MiniMax's of transformers.

Read in fla (``fla/layers/simple_gla.py`` at 16c38300, ``multiscale_retention.py`` at 17423c96, ``hgrn2.py`` at
0315a70e, ``linear_attn.py`` at 038bdb3c), in microsoft/torchscale (``multiscale_retention.py`` at 05a96283) and in
transformers 5.23.0 (``models/minimax/modeling_minimax.py``).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...mixers.linear_attention.hgrn2 import HGRN2
from ...mixers.linear_attention.lightning import LightningAttention
from ...mixers.linear_attention.linear_attention import FEATURE_MAPS, LinearAttention
from ...mixers.linear_attention.retnet import RetNet
from ...mixers.linear_attention.simple_gla import SimpleGatedLinearAttention
from ...types import LayerContext
from ..importer import Weights, add_importer, options
from .gla import DEFAULTS as GLA
from .gla import IGNORED, attention_options, attention_weights, short_convolution

FLA = "fla-org/flash-linear-attention"
SIMPLE_GLA, RETNET = f"{FLA}:SimpleGatedLinearAttention", f"{FLA}:MultiScaleRetention"
HGRN2_ATTENTION, LINEAR = f"{FLA}:HGRN2Attention", f"{FLA}:LinearAttention"
TORCHSCALE = "microsoft/torchscale:MultiScaleRetention"
LIGHTNING = "huggingface/transformers:MiniMaxLightningAttention"

COMMON = {name: value for name, value in GLA.items() if name not in ("gate_low_rank_dim", "clamp_min")}
SIMPLE_GLA_DEFAULTS = {name: value for name, value in COMMON.items() if name != "use_output_gate"} | {
    "expand_k": 1.0,
    "use_short_conv": True,
}
RETNET_DEFAULTS = {name: value for name, value in COMMON.items() if name != "gate_logit_normalizer"} | {
    "expand_k": 1.0,
    "expand_v": 2.0,
    "num_heads": 8,
}
RETNET_ACTIVATIONS = {
    "relu": "relu", "sigmoid": "sigmoid", "silu": "silu", "swish": "silu", "tanh": "tanh", "gelu": "gelu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu2": "relu2",
}  # fmt: skip
"""This layer takes its activations from transformers; the others take fla's, whose ``gelu`` is the approximation."""
TORCHSCALE_DEFAULTS = {
    "embed_dim": ..., "value_dim": ..., "num_heads": ..., "gate_fn": "swish", "layernorm_eps": 1e-6,
}  # fmt: skip
HGRN2_DEFAULTS = {
    "hidden_size": 1024, "num_heads": None, "expand_ratio": 128, "use_short_conv": False, "conv_size": 4,
    "conv_bias": False, "elementwise_affine": True, "norm_eps": 1e-5,
}  # fmt: skip
LINEAR_DEFAULTS = {
    "hidden_size": 1024, "expand_k": 1.0, "expand_v": 1, "num_heads": 8, "num_kv_heads": None,
    "feature_map": "elementwise_product", "tie_feature_map_qk": False, "output_norm": "rmsnorm", "norm_q": False,
    "norm_k": False, "do_feature_map_norm": False, "elementwise_affine": True, "norm_eps": 1e-5,
}  # fmt: skip
LINEAR_NORMALIZER_EPS = 1e-10
"""Added there to the sum of scores that are divided by √d_k."""
LIGHTNING_DEFAULTS = {
    "hidden_size": 4096, "num_attention_heads": 32, "head_dim": None, "hidden_act": "silu", "layer_idx": ...,
    "num_hidden_layers": 32,
}  # fmt: skip
LIGHTNING_IGNORED = ("block_size", "mask", "prefill_length", "seed")
LIGHTNING_BUFFERS = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
LIGHTNING_ACTIVATIONS = {"silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu"}


def _only(original: str, given: Any, **wanted: Any) -> None:
    """Raise unless options have the only values that were checked against the original."""
    for name, value in wanted.items():
        if getattr(given, name) != value:
            got = f"{name}={getattr(given, name)!r}"
            raise argument_error(f"from_original({original!r})", got, f"{value!r}", "this variant is not supported")


def _build_simple_gla(**hyper: Any) -> SimpleGatedLinearAttention:
    return SimpleGatedLinearAttention(**attention_options(SIMPLE_GLA, SIMPLE_GLA_DEFAULTS, hyper))


def _convert_simple_gla(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = options(SIMPLE_GLA, hyper, SIMPLE_GLA_DEFAULTS, IGNORED)
    return {name: w.take(name) for name in ("gk_proj.weight", "gk_proj.bias")} | attention_weights(w, o)


def _build_retnet(**hyper: Any) -> RetNet:
    return RetNet(**attention_options(RETNET, RETNET_DEFAULTS, hyper, RETNET_ACTIVATIONS))


def _convert_retnet(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = options(RETNET, hyper, RETNET_DEFAULTS, IGNORED)
    w.ignore("rotary.inv_freq")
    return attention_weights(w, o, gate=o.use_output_gate)


def _build_torchscale(**hyper: Any) -> RetNet:
    """Its rates of rotation, 10000^(-i/(n-1)) for the pairs i < n of a head, are those of another base."""
    o = options(TORCHSCALE, hyper, TORCHSCALE_DEFAULTS, ("seed",))
    if o.gate_fn not in ("swish", "gelu"):
        raise unknown_name(f"from_original({TORCHSCALE!r})", "gate_fn", o.gate_fn, ("swish", "gelu"))
    pairs = o.embed_dim // o.num_heads // 2
    return RetNet(
        o.embed_dim,
        expand_v=o.value_dim / o.embed_dim,
        num_heads=o.num_heads,
        normalize=True,
        rotary_base=10000.0 ** (pairs / max(pairs - 1, 1)),
        gate_activation="silu" if o.gate_fn == "swish" else "gelu",
        norm_affine=False,
        norm_eps=o.layernorm_eps,
    )


def _convert_torchscale(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Neighbouring channels of queries and keys rotate there, halves of a head here."""
    o = options(TORCHSCALE, hyper, TORCHSCALE_DEFAULTS, ("seed",))
    found = {f"{name}_proj.weight": w.take(f"{name}_proj.weight") for name in "vg"}
    for name in "qk":
        rows = w.take(f"{name}_proj.weight").unflatten(0, (o.num_heads, -1, 2))
        found[f"{name}_proj.weight"] = rows.transpose(1, 2).flatten(0, 2)
    return found | {"o_proj.weight": w.take("out_proj.weight")}


def _build_hgrn2(**hyper: Any) -> HGRN2:
    """The layer without the lower bounds, which the original's model passes to it."""
    o = options(HGRN2_ATTENTION, hyper, HGRN2_DEFAULTS, IGNORED)
    _only(HGRN2_ATTENTION, o, elementwise_affine=True, norm_eps=1e-5)  # its fused norm has this ε whatever is passed
    heads = o.num_heads if o.expand_ratio is None else o.hidden_size // o.expand_ratio
    conv = {"d_conv": o.conv_size if o.use_short_conv else None, "conv_bias": o.conv_bias and o.use_short_conv}
    return HGRN2(o.hidden_size, num_heads=heads, head_dim=o.expand_ratio, **conv)


def _convert_hgrn2(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = options(HGRN2_ATTENTION, hyper, HGRN2_DEFAULTS, IGNORED)
    found = {f"{name}_proj.weight": w.take(f"{part}_proj.weight") for name, part in zip("qkv", "qfi", strict=True)}
    found |= {name: w.take(name) for name in ("g_norm.weight", "o_proj.weight")}
    return found | short_convolution(w, o, "qfi")


def _build_linear(**hyper: Any) -> LinearAttention:
    o = options(LINEAR, hyper, LINEAR_DEFAULTS, IGNORED)
    _only(LINEAR, o, norm_q=False, norm_k=False, elementwise_affine=True)
    if o.feature_map not in FEATURE_MAPS:
        raise unknown_name(f"from_original({LINEAR!r})", "feature_map", o.feature_map, FEATURE_MAPS)
    if o.output_norm not in ("rmsnorm", "identity"):
        raise unknown_name(f"from_original({LINEAR!r})", "output_norm", o.output_norm, ("rmsnorm", "identity"))
    d_k = int(o.hidden_size * o.expand_k) // o.num_heads
    return LinearAttention(
        o.hidden_size,
        expand_k=o.expand_k,
        expand_v=o.expand_v,
        num_heads=o.num_heads,
        num_kv_heads=o.num_kv_heads,
        feature_map=o.feature_map,
        normalize=o.do_feature_map_norm,
        denominator_eps=LINEAR_NORMALIZER_EPS * d_k**0.5,
        output_norm=o.output_norm == "rmsnorm",
        norm_eps=float(o.norm_eps),
    )


def _convert_linear(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = options(LINEAR, hyper, LINEAR_DEFAULTS, IGNORED)
    found = {f"{name}_proj.weight": w.take(f"{name}_proj.weight") for name in "qkvo"}
    return found | ({"o_norm.weight": w.take("norm.weight")} if o.output_norm == "rmsnorm" else {})


def _build_lightning(**hyper: Any) -> LightningAttention:
    o = options(LIGHTNING, hyper, LIGHTNING_DEFAULTS, LIGHTNING_IGNORED)
    if o.hidden_act not in LIGHTNING_ACTIVATIONS:
        raise unknown_name(f"from_original({LIGHTNING!r})", "hidden_act", o.hidden_act, LIGHTNING_ACTIVATIONS)
    return LightningAttention(
        o.hidden_size,
        num_heads=o.num_attention_heads,
        head_dim=o.head_dim or o.hidden_size // o.num_attention_heads,
        activation=LIGHTNING_ACTIVATIONS[o.hidden_act],
        layer=LayerContext(o.layer_idx, o.num_hidden_layers),
    )


def _convert_lightning(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """One matrix holds, head after head, the rows of [q | k | v]."""
    o = options(LIGHTNING, hyper, LIGHTNING_DEFAULTS, LIGHTNING_IGNORED)
    w.ignore(*LIGHTNING_BUFFERS)
    rows = w.take("qkv_proj.weight").unflatten(0, (o.num_attention_heads, 3, -1))
    found = {f"{name}_proj.weight": rows[:, i].flatten(0, 1) for i, name in enumerate("qkv")}
    names = {"g_norm.weight": "norm.weight", "g_proj.weight": "output_gate.weight", "o_proj.weight": "out_proj.weight"}
    return found | {name: w.take(original) for name, original in names.items()}


add_importer(SIMPLE_GLA, build=_build_simple_gla, convert=_convert_simple_gla)
add_importer(RETNET, build=_build_retnet, convert=_convert_retnet)
add_importer(TORCHSCALE, build=_build_torchscale, convert=_convert_torchscale)
add_importer(HGRN2_ATTENTION, build=_build_hgrn2, convert=_convert_hgrn2)
add_importer(LINEAR, build=_build_linear, convert=_convert_linear)
add_importer(LIGHTNING, build=_build_lightning, convert=_convert_lightning)
