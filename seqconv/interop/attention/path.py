"""Reading PaTH attention of fla-org/flash-linear-attention at bc3b101d, fla/layers/path_attn.py.

Its reference form holds scores in float32 whatever the dtype (``fla/ops/path_attn/naive.py``), as its kernels do.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...mixers.attention.path_attention import W_RANK, PathAttention
from ..importer import Weights, add_importer, options

ORIGINAL = "fla-org/flash-linear-attention:PaTHAttention"
DEFAULTS: dict[str, Any] = {
    "hidden_size": 2048, "num_heads": 32, "num_kv_heads": None, "use_forget_gate": False, "use_qk_norm": False,
    "use_low_rank_w": True, "use_w_shortconv": True, "conv_size": 3, "conv_bias": False,
}  # fmt: skip
IGNORED = ("layer_idx", "seed")


def _build(**hyper: Any) -> PathAttention:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    return PathAttention(
        o.hidden_size,
        num_heads=o.num_heads,
        num_kv_heads=o.num_kv_heads,
        w_rank=W_RANK if o.use_low_rank_w else None,
        forget_gate=o.use_forget_gate,
        qk_norm=o.use_qk_norm,
        d_conv=o.conv_size if o.use_w_shortconv else None,
        conv_bias=o.conv_bias,
        float32_scores=True,
    )


def _convert(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """Names differ for the projection to β, the norms and the short convolution."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    w_proj = ["w_proj.0.weight", "w_proj.1.weight"] if o.use_low_rank_w else ["w_proj.weight"]
    same = [f"{name}_proj.weight" for name in "qkvo"] + w_proj
    found = {name: w.take(name) for name in same + ["g_proj.weight", "g_proj.bias"] * o.use_forget_gate}
    found |= {f"b_proj.{kind}": w.take(f"bt_proj.{kind}") for kind in ("weight", "bias")}
    if o.use_qk_norm:
        found |= {f"{name}_norm.weight": w.take(f"maybe_{name}_norm.weight") for name in "qk"}
    if o.use_w_shortconv:
        found["conv1d.weight"] = w.take("w_conv1d.weight").squeeze(1)
    if o.use_w_shortconv and o.conv_bias:
        found["conv1d.bias"] = w.take("w_conv1d.bias")
    return found


add_importer(ORIGINAL, build=_build, convert=_convert)
