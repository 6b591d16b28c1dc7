"""Reading the layers of RWKV-7.

They are those of BlinkDL/RWKV-LM at 524481d5 (RWKV-v7/rwkv_v7_demo.py) and of fla-org/flash-linear-attention at
bc3b101d (fla/layers/rwkv7.py, ``RWKV7FeedForward`` of fla/models/rwkv7/modeling_rwkv7.py). Sizes are those of the
tensors. Of the original's first layer, v0, v1 and v2 are there but unused.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...layers.channel_mix import TokenShiftMLP
from ...mixers.linear_attention.rwkv.rwkv7 import RWKV7
from ...types import LayerContext
from ..importer import Weights, add_importer, options

REPOSITORY, FLA = "BlinkDL/RWKV-LM", "fla-org/flash-linear-attention"
TIME_MIX, CHANNEL_MIX = f"{REPOSITORY}:RWKV_Tmix_x070", f"{REPOSITORY}:RWKV_CMix_x070"
FLA_TIME_MIX, FLA_CHANNEL_MIX = f"{FLA}:RWKV7Attention", f"{FLA}:RWKV7FeedForward"
SHIFTS = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
L2_NORM_EPS = 1e-6
"""ε of fla's ``l2_norm``, which normalises the keys where ``fuse_norm`` is set."""

LAYER: dict[str, Any] = {"layer_id": None, "n_layer": None}
BLINKDL: dict[str, Any] = LAYER | {
    "n_embd": None, "dim_att": None, "head_size": None, "head_size_a": None, "lora_decay_a_v_gate": None,
    "dim_ffn": None,
}  # fmt: skip
FLA_OPTIONS: dict[str, Any] = {
    "hidden_size": 1024, "head_dim": 64, "num_heads": None, "elementwise_affine": True, "norm_eps": 1e-5,
    "fuse_norm": False, "layer_idx": None, "num_hidden_layers": None, "value_dim": None,
}  # fmt: skip
FLA_RANKS = ("decay_low_rank_dim", "gate_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim")
FLA_FFN: dict[str, Any] = {
    "hidden_size": ..., "hidden_ratio": None, "intermediate_size": None, "hidden_act": "sqrelu", "layer_idx": None,
    "num_hidden_layers": None,
}  # fmt: skip
IGNORED = ("seed", "mode", "batch", "seqlen")


def layer_context(index: int | None, depth: int | None, first: bool) -> LayerContext:
    """Place in the stack; the weights show whether it is the first layer."""
    index = (0 if first else 1) if index is None else index
    return LayerContext(index, index + 1 if depth is None else depth)


def _infer_blinkdl(w: Weights) -> dict[str, Any]:
    heads, head_size = w.peek("r_k").shape
    ranks = tuple(w.peek(f"{n}1").shape[1] for n in "wa") + ((w.peek("v1").shape[1],) if "v1" in w else (None,))
    return {
        "n_embd": heads * head_size,
        "head_size": head_size,
        "lora_decay_a_v_gate": (*ranks, w.peek("g1").shape[1]),
        "layer_id": 1 if "v0" in w else 0,
    }


def _build_blinkdl(**hyper: Any) -> RWKV7:
    o = options(TIME_MIX, hyper, BLINKDL, IGNORED)
    if o.dim_att not in (None, o.n_embd):
        raise argument_error(f"from_original({TIME_MIX!r})", f"dim_att={o.dim_att}", f"{o.n_embd}", "as in all models")
    decay, rate, value, gate = o.lora_decay_a_v_gate
    return RWKV7(
        o.n_embd,
        head_dim=o.head_size_a or o.head_size,
        decay_low_rank_dim=decay,
        a_low_rank_dim=rate,
        v_low_rank_dim=value,
        gate_low_rank_dim=gate,
        layer=layer_context(o.layer_id, o.n_layer, False),
    )


def convert_time_mix(w: Weights, first: bool) -> dict[str, Tensor]:
    """The tensors of ``RWKV_Tmix_x070``; matrices of bottlenecks multiply from the right there."""
    if first:
        w.ignore("v0", "v1", "v2")
    bottlenecks = ("w", "a", "g") if first else ("w", "a", "g", "v")
    vectors = {name: name for name in (*SHIFTS, "w0", "a0", "k_k", "k_a", *(() if first else ("v0",)))}
    vectors |= {"ln_weight": "ln_x.weight", "ln_bias": "ln_x.bias"}
    found = {name: w.take(original).flatten() for name, original in vectors.items()}
    for n in bottlenecks:
        for part, original in (("down", f"{n}1"), ("up", f"{n}2")):
            found[f"{n}_lora.{part}.weight"] = w.take(original).T.contiguous()
    projections = {"r": "receptance", "k": "key", "v": "value", "o": "output"}
    found |= {f"{n}_proj.weight": w.take(f"{original}.weight") for n, original in projections.items()}
    return found | {"r_k": w.take("r_k")}


def convert_channel_mix(w: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of ``RWKV_CMix_x070`` and of fla's ``RWKV7FeedForward``, which have the same names."""
    return {"x_k": w.take("x_k").flatten()} | {name: w.take(name) for name in ("key.weight", "value.weight")}


def fla_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for those of ``RWKV7Attention``.

    Raises:
        ValueError: values wider than the keys, or a norm without weights, which were not checked.
    """
    ranks = {name: hyper.pop(name) for name in FLA_RANKS if name in hyper}
    o = options(FLA_TIME_MIX, hyper, FLA_OPTIONS, IGNORED)
    for name, value, wanted in (
        ("value_dim", o.value_dim, (None, o.hidden_size)),
        ("elementwise_affine", o.elementwise_affine, (True,)),
    ):
        if value not in wanted:
            remedy = "this variant is not supported"
            raise argument_error(f"from_original({FLA_TIME_MIX!r})", f"{name}={value!r}", repr(wanted[-1]), remedy)
    head_dim = o.hidden_size // o.num_heads if o.head_dim is None else o.head_dim
    eps = {"norm_eps": head_dim * float(o.norm_eps), "key_norm_eps": L2_NORM_EPS if o.fuse_norm else None}
    return {"d_model": o.hidden_size, "head_dim": head_dim} | eps | ranks


def _infer_fla(w: Weights) -> dict[str, Any]:
    ranks = {f"{n}_low_rank_dim": w.peek(f"{m}_lora.lora.0.weight").shape[0] for n, m in (("decay", "w"), ("a", "a"))}
    ranks["gate_low_rank_dim"] = w.peek("g_lora.lora.0.weight").shape[0]
    return ranks | {"layer_idx": 1 if "v_lora.lora.0.weight" in w else 0}


def _build_fla(**hyper: Any) -> RWKV7:
    place = layer_context(hyper.get("layer_idx"), hyper.get("num_hidden_layers"), False)
    return RWKV7(**fla_options(**hyper), layer=place)


def convert_fla_time_mix(w: Weights, first: bool) -> dict[str, Tensor]:
    """The tensors of ``RWKV7Attention``; in its first version the six token shifts are one tensor."""
    shifts = w.take("x_x").unbind() if "x_x" in w else [w.take(name).flatten() for name in SHIFTS]
    found = dict(zip(SHIFTS, (t.flatten() for t in shifts), strict=True))
    found |= {name: w.take(name) for name in ("k_k", "k_a", "r_k")}
    for n in ("w", "a", "g") if first else ("w", "a", "g", "v"):
        found[f"{n}_lora.down.weight"] = w.take(f"{n}_lora.lora.0.weight")
        found[f"{n}_lora.up.weight"] = w.take(f"{n}_lora.lora.2.weight")
        if n != "g":
            found[f"{n}0"] = w.take(f"{n}_lora.lora.2.bias")
    found |= {f"{n}_proj.weight": w.take(f"{n}_proj.weight") for n in "rkvo"}
    return found | {"ln_weight": w.take("g_norm.weight"), "ln_bias": w.take("g_norm.bias")}


def _build_ffn(original: str, known: Mapping[str, Any], **hyper: Any) -> TokenShiftMLP:
    o = options(original, hyper, known, IGNORED)
    return TokenShiftMLP(o.n_embd, hidden=o.dim_ffn, layer=layer_context(o.layer_id, o.n_layer, True))


def _build_fla_ffn(**hyper: Any) -> TokenShiftMLP:
    o = options(FLA_CHANNEL_MIX, hyper, FLA_FFN, IGNORED)
    if o.hidden_act != "sqrelu":
        got, remedy = f"hidden_act={o.hidden_act!r}", "this variant is not supported"
        raise argument_error(f"from_original({FLA_CHANNEL_MIX!r})", got, "'sqrelu'", remedy)
    width = fla_hidden(o.hidden_size, o.hidden_ratio, o.intermediate_size)
    return TokenShiftMLP(o.hidden_size, hidden=width, layer=layer_context(o.layer_idx, o.num_hidden_layers, True))


def fla_hidden(width: int, ratio: float | None, hidden: int | None) -> int:
    """Hidden width of fla's channel mix: ``ratio`` times the width, rounded up to a multiple of 32, if not given."""
    return hidden if hidden is not None else 32 * -(-int(width * (4 if ratio is None else ratio)) // 32)


def _ffn_sizes(w: Weights) -> dict[str, Any]:
    hidden, width = w.peek("key.weight").shape
    return {"n_embd": width, "dim_ffn": hidden}


def _fla_ffn_sizes(w: Weights) -> dict[str, Any]:
    hidden, width = w.peek("key.weight").shape
    return {"hidden_size": width, "intermediate_size": hidden}


add_importer(
    TIME_MIX,
    build=_build_blinkdl,
    convert=lambda w, hyper: convert_time_mix(w, hyper["layer_id"] == 0),
    infer=_infer_blinkdl,
)
add_importer(
    CHANNEL_MIX,
    build=lambda **hyper: _build_ffn(CHANNEL_MIX, BLINKDL, **hyper),
    convert=convert_channel_mix,
    infer=_ffn_sizes,
)
add_importer(
    FLA_TIME_MIX,
    build=_build_fla,
    convert=lambda w, hyper: convert_fla_time_mix(w, hyper["layer_idx"] == 0),
    infer=_infer_fla,
)
add_importer(FLA_CHANNEL_MIX, build=_build_fla_ffn, convert=convert_channel_mix, infer=_fla_ffn_sizes)
