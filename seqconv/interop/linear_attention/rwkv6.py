"""Reading the layers of RWKV-6.

They are those of BlinkDL/RWKV-LM at 524481d5 (``RWKV_Tmix_x060`` and ``RWKV_CMix_x060`` of RWKV-v5/src/model.py) and of
fla-org/flash-linear-attention at bc3b101d (fla/layers/rwkv6.py, ``RWKV6FeedForward`` of
fla/models/rwkv6/modeling_rwkv6.py). Widths of bottlenecks are those of the tensors.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...layers.channel_mix import TokenShiftMLP
from ...mixers.linear_attention.rwkv.rwkv6 import RWKV6, USES
from ..importer import Weights, add_importer, options
from .gla import ACTIVATIONS
from .rwkv7 import FLA, IGNORED, LAYER, REPOSITORY, layer_context

TIME_MIX, CHANNEL_MIX = f"{REPOSITORY}:RWKV_Tmix_x060", f"{REPOSITORY}:RWKV_CMix_x060"
FLA_TIME_MIX, FLA_CHANNEL_MIX = f"{FLA}:RWKV6Attention", f"{FLA}:RWKV6FeedForward"
ORDER = ("w", "k", "v", "r", "g")
"""Order of the five token shifts in the original."""
EPS = 1e-5
"""ε of the output norm per square of ``head_size_divisor``."""

BLINKDL: dict[str, Any] = LAYER | {
    "n_embd": None, "dim_att": None, "head_size": None, "head_size_a": None, "head_size_divisor": 8,
    "mix_lora": None, "decay_lora": None, "dim_ffn": None,
}  # fmt: skip
FLA_OPTIONS: dict[str, Any] = {
    "hidden_size": 1024, "expand_k": 0.5, "expand_v": 1.0, "num_heads": 4, "gate_fn": "swish",
    "proj_low_rank_dim": 32, "gate_low_rank_dim": 64, "elementwise_affine": True, "norm_eps": 1e-5,
}  # fmt: skip
FLA_IGNORED = (*IGNORED, "fuse_norm", "layer_idx")


def _infer(w: Weights) -> dict[str, Any]:
    heads, head_size = w.peek("time_faaaa").shape
    _, mix_lora, n_embd = w.peek("time_maa_w2").shape
    sizes = {"n_embd": n_embd, "dim_att": heads * head_size, "head_size": head_size, "mix_lora": mix_lora}
    return sizes | {"decay_lora": w.peek("time_decay_w1").shape[1]}


def _build(**hyper: Any) -> RWKV6:
    o = options(TIME_MIX, hyper, BLINKDL, IGNORED)
    width = o.n_embd if o.dim_att is None else o.dim_att
    return RWKV6(
        o.n_embd,
        head_dim=o.head_size_a or o.head_size,
        expand_k=width / o.n_embd,
        expand_v=width / o.n_embd,
        proj_low_rank_dim=o.mix_lora,
        decay_low_rank_dim=o.decay_lora,
        norm_eps=EPS * o.head_size_divisor**2,
        layer=layer_context(o.layer_id, o.n_layer, True),
    )


def convert_time_mix(w: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of ``RWKV_Tmix_x060``; matrices of bottlenecks multiply from the right there."""
    found = {f"x_{use}": w.take(f"time_maa_{use}").flatten() for use in ("x", *ORDER)}
    down = dict(zip(ORDER, w.take("time_maa_w1").T.chunk(5), strict=True))
    up = dict(zip(ORDER, w.take("time_maa_w2"), strict=True))
    found["mix_down.weight"] = torch.cat([down[use] for use in USES])
    found |= {f"mix_up.{i}.weight": up[use].T.contiguous() for i, use in enumerate(USES)}
    found |= {"w0": w.take("time_decay").flatten(), "bonus": w.take("time_faaaa")}
    found |= {f"w_lora.{n}.weight": w.take(f"time_decay_w{i}").T.contiguous() for n, i in (("down", 1), ("up", 2))}
    projections = {"r": "receptance", "k": "key", "v": "value", "g": "gate", "o": "output"}
    found |= {f"{n}_proj.weight": w.take(f"{original}.weight") for n, original in projections.items()}
    return found | {"ln_weight": w.take("ln_x.weight"), "ln_bias": w.take("ln_x.bias")}


def _ffn_sizes(w: Weights) -> dict[str, Any]:
    hidden, width = w.peek("key.weight").shape
    return {"n_embd": width, "dim_ffn": hidden}


def _build_ffn(**hyper: Any) -> TokenShiftMLP:
    o = options(CHANNEL_MIX, hyper, BLINKDL, IGNORED)
    return TokenShiftMLP(o.n_embd, hidden=o.dim_ffn, gated=True, layer=layer_context(o.layer_id, o.n_layer, True))


def convert_channel_mix(w: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of ``RWKV_CMix_x060``."""
    same = {name: w.take(name) for name in ("key.weight", "value.weight", "receptance.weight")}
    return same | {"x_k": w.take("time_maa_k").flatten(), "x_r": w.take("time_maa_r").flatten()}


def fla_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for those of ``RWKV6Attention``.

    Raises:
        ValueError: a norm without weights, which was not checked; an unknown activation.
    """
    o = options(FLA_TIME_MIX, hyper, FLA_OPTIONS, FLA_IGNORED)
    if not o.elementwise_affine:
        remedy = "this variant is not supported"
        raise argument_error(f"from_original({FLA_TIME_MIX!r})", "elementwise_affine=False", "True", remedy)
    if o.gate_fn not in ACTIVATIONS:
        raise unknown_name(f"from_original({FLA_TIME_MIX!r})", "gate_fn", str(o.gate_fn), ACTIVATIONS)
    return {
        "d_model": o.hidden_size,
        "head_dim": int(o.hidden_size * o.expand_v) // o.num_heads,
        "expand_k": o.expand_k,
        "expand_v": o.expand_v,
        "proj_low_rank_dim": o.proj_low_rank_dim,
        "decay_low_rank_dim": o.gate_low_rank_dim,
        "gate_activation": ACTIVATIONS[o.gate_fn],
        "norm_eps": float(o.norm_eps),
    }


def _build_fla(**hyper: Any) -> RWKV6:
    return RWKV6(**fla_options(**hyper))


def convert_fla_time_mix(w: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of ``RWKV6Attention``: one matrix holds the second ones of the five token shifts, row by row."""
    found = dict(zip((f"x_{use}" for use in USES), w.take("x_bias"), strict=True))
    found |= {"x_x": w.take("x_proj.0.mu"), "mix_down.weight": w.take("x_proj.0.linear.weight")}
    up = w.take("x_proj.2.weight").unflatten(1, (5, -1))
    found |= {f"mix_up.{i}.weight": up[:, i].contiguous() for i in range(5)}
    found |= {"w0": w.take("w_proj.linear.lora.2.bias"), "bonus": w.take("bonus")}
    found |= {f"w_lora.{n}.weight": w.take(f"w_proj.linear.lora.{i}.weight") for n, i in (("down", 0), ("up", 2))}
    found |= {f"{n}_proj.weight": w.take(f"{n}_proj.linear.weight") for n in "rkvg"}
    found |= {"ln_weight": w.take("g_norm.weight"), "ln_bias": w.take("g_norm.bias")}
    return found | {"o_proj.weight": w.take("o_proj.weight")}


add_importer(TIME_MIX, build=_build, convert=convert_time_mix, infer=_infer)
add_importer(CHANNEL_MIX, build=_build_ffn, convert=convert_channel_mix, infer=_ffn_sizes)
add_importer(FLA_TIME_MIX, build=_build_fla, convert=convert_fla_time_mix)
