"""Reading delta-rule layers: DeltaNet, gated DeltaNet and Kimi delta attention of fla and of transformers.

Read in fla-org/flash-linear-attention (``fla/layers/delta_net.py`` at 0315a70e, ``fla/layers/gated_deltanet.py`` at
0243cc45, ``fla/layers/kda.py`` at bc3b101d) and in transformers 5.23.0 (``models/qwen3_next``, ``qwen3_5``,
``olmo_hybrid`` and ``kimi_linear``). All of them divide queries and keys by ``√(Σ x² + 1e-6)``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from seqconv_kernels._core.errors import argument_error

from ...mixers.linear_attention.delta_rule.comba import Comba
from ...mixers.linear_attention.delta_rule.deltanet import DeltaNet
from ...mixers.linear_attention.delta_rule.gated_delta_product import GatedDeltaProduct
from ...mixers.linear_attention.delta_rule.gated_deltanet import GatedDeltaNet
from ...mixers.linear_attention.delta_rule.gated_deltanet2 import GatedDeltaNet2
from ...mixers.linear_attention.delta_rule.kda import KimiDeltaAttention
from ..importer import Weights, add_importer, options

FLA = "fla-org/flash-linear-attention"
TRANSFORMERS = "huggingface/transformers"
FLA_IGNORED = ("mode", "layer_idx", "batch", "seqlen", "seed")
CONFIG_IGNORED = ("vocab_size", "num_hidden_layers", "prefill_length", "padding_mask", "seed")
"""Values that the layer does not read."""
OLMO_NORM_EPS = 1e-5
"""``OlmoHybridGatedDeltaNet`` passes this to its norm, whatever ``rms_norm_eps`` says."""

FLA_CONV = {"use_short_conv": True, "conv_size": 4, "conv_bias": False}
FLA_DELTANET = FLA_CONV | {
    "hidden_size": 1024, "d_model": None, "expand_k": 1.0, "expand_v": 1.0, "num_heads": 4, "use_beta": True,
    "use_gate": False, "allow_neg_eigval": False, "qk_activation": "silu", "qk_norm": "l2", "norm_eps": 1e-5,
}  # fmt: skip
FLA_HEADS = FLA_CONV | {
    "hidden_size": 2048, "head_dim": 256, "num_heads": 6, "num_v_heads": None, "expand_v": 2.0,
    "allow_neg_eigval": False, "norm_eps": 1e-5,
}  # fmt: skip
FLA_GATED = FLA_HEADS | {"use_gate": True}
FLA_PRODUCT = FLA_HEADS | {
    "use_output_gate": True, "use_forget_gate": True, "allow_neg_eigval": True, "num_householder": 2,
}  # fmt: skip
FLA_COMBA = FLA_HEADS | {
    "use_output_gate": True, "use_output_correction": True, "use_inner_decay": True, "correction_factor": 1.0,
}  # fmt: skip
FLA_GDN2 = FLA_HEADS | {"head_dim": 128, "num_heads": 16, "expand_v": 1.0}
FLA_KDA = FLA_HEADS | {"head_dim": 128, "num_heads": 16, "expand_v": 1.0, "lower_bound": None}
GROUPED = {
    "hidden_size": 2048, "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "rms_norm_eps": 1e-6, "hidden_act": "silu",
}  # fmt: skip
QWEN3_5_CONFIG = GROUPED | {"hidden_size": 4096}
OLMO = dict.fromkeys(GROUPED, ...) | {
    "hidden_size": 3840, "linear_conv_kernel_dim": 4, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    "linear_allow_neg_eigval": True,
}  # fmt: skip
KIMI = {
    "hidden_size": 2304, "linear_num_heads": 32, "linear_head_dim": 128, "linear_conv_kernel_dim": 4,
    "rms_norm_eps": 1e-5, "hidden_act": "silu",
}  # fmt: skip


def _only(original: str, given: Any, **wanted: Any) -> None:
    """Raise unless options have the only values that were checked against the original."""
    for name, value in wanted.items():
        if getattr(given, name) != value:
            got = f"{name}={getattr(given, name)!r}"
            raise argument_error(f"from_original({original!r})", got, f"{value!r}", "this variant is not supported")


def _fla_options(o: Any) -> dict[str, Any]:
    """What the three layers of fla have in common."""
    conv = {"d_conv": o.conv_size if o.use_short_conv else None, "conv_bias": o.conv_bias and o.use_short_conv}
    return conv | {"allow_neg_eigval": o.allow_neg_eigval, "norm_eps": float(o.norm_eps)}


def _fla_heads(o: Any) -> dict[str, Any]:
    sizes = {"num_heads": o.num_heads, "num_v_heads": o.num_v_heads, "head_dim": o.head_dim}
    return sizes | {"head_v_dim": int(o.head_dim * o.expand_v)} | _fla_options(o)


def _build_deltanet(original: str, **hyper: Any) -> DeltaNet:
    o = options(original, hyper, FLA_DELTANET, FLA_IGNORED)
    _only(original, o, use_beta=True, qk_activation="silu", qk_norm="l2")
    width = o.hidden_size if o.d_model is None else o.d_model
    heads = [int(width * expand) // o.num_heads for expand in (o.expand_k, o.expand_v)]
    sizes = {"num_heads": o.num_heads, "head_dim": heads[0], "head_v_dim": heads[1]}
    return DeltaNet(width, use_output_gate=o.use_gate, **sizes, **_fla_options(o))


def _build_gated(original: str, **hyper: Any) -> GatedDeltaNet:
    o = options(original, hyper, FLA_GATED, FLA_IGNORED)
    return GatedDeltaNet(o.hidden_size, use_output_gate=o.use_gate, **_fla_heads(o))


def _build_kda(original: str, **hyper: Any) -> KimiDeltaAttention:
    o = options(original, hyper, FLA_KDA, FLA_IGNORED)
    return KimiDeltaAttention(o.hidden_size, decay_lower_bound=o.lower_bound, **_fla_heads(o))


def _build_gdn2(original: str, **hyper: Any) -> GatedDeltaNet2:
    o = options(original, hyper, FLA_GDN2, FLA_IGNORED)
    return GatedDeltaNet2(o.hidden_size, **_fla_heads(o))


def _build_product(original: str, **hyper: Any) -> GatedDeltaProduct:
    o = options(original, hyper, FLA_PRODUCT, FLA_IGNORED)
    gates = {"use_forget_gate": o.use_forget_gate, "use_output_gate": o.use_output_gate}
    return GatedDeltaProduct(o.hidden_size, num_householder=o.num_householder, **gates, **_fla_heads(o))


def _build_comba(original: str, **hyper: Any) -> Comba:
    o = options(original, hyper, FLA_COMBA, FLA_IGNORED)
    _only(original, o, allow_neg_eigval=False)
    if o.num_v_heads not in (None, o.num_heads):  # the original repeats queries and keys, but not what it reads
        _only(original, o, num_v_heads=o.num_heads)
    gates = {n: getattr(o, n) for n in ("use_output_gate", "use_output_correction", "use_inner_decay")}
    return Comba(o.hidden_size, correction_factor=float(o.correction_factor), **gates, **_fla_heads(o))


def _convert_comba(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = options(COMBA, hyper, FLA_COMBA, FLA_IGNORED)
    found = {"inner_decay": w.take("decay")} if o.use_inner_decay else {}
    return found | ({"D": w.take("D")} if o.use_output_correction else {}) | _convert_fla(FLA_COMBA, COMBA, w, hyper)


def _convert_fla(known: Mapping[str, Any], original: str, w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names are kept; the three short convolutions become one."""
    o = options(original, hyper, known, FLA_IGNORED)
    found = {f"{n}_proj.weight": w.take(f"{n}_proj.weight") for n in "qkvbo"} | {
        "o_norm.weight": w.take("o_norm.weight")
    }
    if o.use_short_conv:
        found["conv1d.weight"] = torch.cat([w.take(f"{n}_conv1d.weight").squeeze(1) for n in "qkv"])
    if o.use_short_conv and o.conv_bias:
        found["conv1d.bias"] = torch.cat([w.take(f"{n}_conv1d.bias") for n in "qkv"])
    if known is FLA_KDA or known is FLA_GDN2:
        same = ["w_proj.weight"] * (known is FLA_GDN2)
        same += ["A_log", "dt_bias", *(f"{n}.weight" for n in ("f_proj.0", "f_proj.1", "g_proj.0", "g_proj.1"))]
        return found | {name: w.take(name) for name in [*same, "g_proj.1.bias"]}
    decays = known is FLA_GATED or known is FLA_COMBA or (known is FLA_PRODUCT and o.use_forget_gate)
    gated = o.use_output_gate if known is FLA_PRODUCT or known is FLA_COMBA else o.use_gate
    same = ["A_log", "dt_bias", "a_proj.weight"] * decays + ["g_proj.weight"] * gated
    return found | {name: w.take(name) for name in same}


def _build_config(
    known: Mapping[str, Any], original: str, *, neg_eigval: bool | None = False, eps: float | None = None, **hyper: Any
) -> GatedDeltaNet:
    """A gated DeltaNet of transformers from the values of its configuration."""
    o = options(original, hyper, known, CONFIG_IGNORED)
    _only(original, o, hidden_act="silu")
    return GatedDeltaNet(
        o.hidden_size,
        num_heads=o.linear_num_key_heads,
        num_v_heads=o.linear_num_value_heads,
        head_dim=o.linear_key_head_dim,
        head_v_dim=o.linear_value_head_dim,
        d_conv=o.linear_conv_kernel_dim,
        allow_neg_eigval=o.linear_allow_neg_eigval if neg_eigval is None else neg_eigval,
        norm_eps=o.rms_norm_eps if eps is None else eps,
    )


def _build_kimi(original: str, **hyper: Any) -> KimiDeltaAttention:
    o = options(original, hyper, KIMI, CONFIG_IGNORED)
    _only(original, o, hidden_act="silu")
    sizes = {"num_heads": o.linear_num_heads, "head_dim": o.linear_head_dim, "d_conv": o.linear_conv_kernel_dim}
    return KimiDeltaAttention(o.hidden_size, gate_bias=False, norm_eps=o.rms_norm_eps, **sizes)


def _common(w: Weights) -> dict[str, Tensor]:
    return {"conv1d.weight": w.take("conv1d.weight").squeeze(1), "A_log": w.take("A_log"), "dt_bias": w.take("dt_bias")}


def _convert_qwen3_next(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """One matrix holds, key head after key head, the rows of [q | k | v | z], and another those of [b | a]."""
    o = options(QWEN3_NEXT, hyper, GROUPED, CONFIG_IGNORED)
    share = o.linear_num_value_heads // o.linear_num_key_heads
    values = share * o.linear_value_head_dim
    rows = w.take("in_proj_qkvz.weight").unflatten(0, (o.linear_num_key_heads, -1))
    q, k, v, z = rows.split([o.linear_key_head_dim, o.linear_key_head_dim, values, values], dim=1)
    b, a = w.take("in_proj_ba.weight").unflatten(0, (o.linear_num_key_heads, -1)).split([share, share], dim=1)
    parts = {"q": q, "k": k, "v": v, "g": z, "b": b, "a": a}
    found = {f"{n}_proj.weight": part.flatten(0, 1) for n, part in parts.items()}
    return found | {"o_norm.weight": w.take("norm.weight"), "o_proj.weight": w.take("out_proj.weight")} | _common(w)


def _convert_qwen3_5(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = options(QWEN3_5, hyper, QWEN3_5_CONFIG, CONFIG_IGNORED)
    keys = o.linear_num_key_heads * o.linear_key_head_dim
    q, k, v = w.take("in_proj_qkv.weight").split([keys, keys, o.linear_num_value_heads * o.linear_value_head_dim])
    parts = {"q": q, "k": k, "v": v} | {
        n: w.take(f"in_proj_{m}.weight") for n, m in (("g", "z"), ("b", "b"), ("a", "a"))
    }
    found = {f"{n}_proj.weight": part for n, part in parts.items()}
    return found | {"o_norm.weight": w.take("norm.weight"), "o_proj.weight": w.take("out_proj.weight")} | _common(w)


def _convert_olmo(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    same = [*(f"{n}_proj.weight" for n in "qkvabgo"), "o_norm.weight"]
    return {name: w.take(name) for name in same} | _common(w)


def _convert_kimi(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    same = [*(f"{n}_proj.weight" for n in "qkvbo"), "o_norm.weight"]
    gate = w.part("forget_gate.")
    return {name: w.take(name) for name in same} | {
        "conv1d.weight": w.take("conv1d.weight").squeeze(1),
        "f_proj.0.weight": gate.take("f_a_proj.weight"),
        "f_proj.1.weight": gate.take("f_b_proj.weight"),
        "g_proj.0.weight": w.take("g_a_proj.weight"),
        "g_proj.1.weight": w.take("g_b_proj.weight"),
        "A_log": gate.take("A_log").flatten(),
        "dt_bias": gate.take("dt_bias"),
    }


QWEN3_NEXT = f"{TRANSFORMERS}:Qwen3NextGatedDeltaNet"
QWEN3_5 = f"{TRANSFORMERS}:Qwen3_5GatedDeltaNet"
OLMO_HYBRID = f"{TRANSFORMERS}:OlmoHybridGatedDeltaNet"
COMBA = f"{FLA}:Comba"
KIMI_LINEAR = f"{TRANSFORMERS}:KimiLinearDeltaAttention"

_FLA_LAYERS: tuple[tuple[str, Callable[..., nn.Module], Mapping[str, Any]], ...] = (
    (f"{FLA}:DeltaNet", _build_deltanet, FLA_DELTANET),
    (f"{FLA}:GatedDeltaNet", _build_gated, FLA_GATED),
    (f"{FLA}:KimiDeltaAttention", _build_kda, FLA_KDA),
    (f"{FLA}:GatedDeltaNet2", _build_gdn2, FLA_GDN2),
    (f"{FLA}:GatedDeltaProduct", _build_product, FLA_PRODUCT),
)
for _original, _build, _known in _FLA_LAYERS:
    add_importer(_original, build=partial(_build, _original), convert=partial(_convert_fla, _known, _original))
add_importer(COMBA, build=partial(_build_comba, COMBA), convert=_convert_comba)
add_importer(QWEN3_NEXT, build=partial(_build_config, GROUPED, QWEN3_NEXT), convert=_convert_qwen3_next)
add_importer(QWEN3_5, build=partial(_build_config, QWEN3_5_CONFIG, QWEN3_5), convert=_convert_qwen3_5)
add_importer(
    OLMO_HYBRID,
    build=partial(_build_config, OLMO, OLMO_HYBRID, neg_eigval=None, eps=OLMO_NORM_EPS),
    convert=_convert_olmo,
)
add_importer(KIMI_LINEAR, build=partial(_build_kimi, KIMI_LINEAR), convert=_convert_kimi)
