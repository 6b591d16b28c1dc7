"""Reading SLAB's simplified linear attention and norms (xinghaochen/SLAB at d9598695, ``classification/models``)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...layers.norms import PRepBatchNorm
from ...mixers.linear_attention.slab import SLAB
from ..importer import Weights, add_importer, options
from ..vision.attention.slab_parts import prep_norm
from ..vision.parts import class_name, require_checked, require_names

ATTENTION, REP_NORM = "xinghaochen/SLAB:SimplifiedLinearAttention", "xinghaochen/SLAB:RepBN"
LINEAR_NORM = "xinghaochen/SLAB:LinearNorm"
NORM_DEFAULTS = {"dim": ..., "norm1": "layernorm", "norm2": "repbn", "warm": 0, "step": 300_000, "r0": 1.0}
LAYER_EPS = {"layernorm": 1e-5, "layernorm(eps=1e-06)": 1e-6}
"""Of the norm that training begins with, by its class and arguments there."""
DEFAULTS = {"dim": ..., "window_size": ..., "num_heads": ..., "qkv_bias": True, "kernel_size": 5}
IGNORED = ("qk_scale", "attn_drop", "proj_drop", "focusing_factor", "seed")
"""What the layer takes and does not read, and its dropout of outputs."""


def _attention(hyper: Mapping[str, Any]) -> Any:
    o = options(ATTENTION, hyper, DEFAULTS, IGNORED)
    size = o.window_size
    o.window_size = (size, size) if isinstance(size, int) else tuple(size)
    return o


def _build_attention(**hyper: Any) -> SLAB:
    o = _attention(hyper)
    height, width = o.window_size
    return SLAB(
        o.dim, num_heads=o.num_heads, d_conv=o.kernel_size, qkv_bias=o.qkv_bias, max_positions=height * width,
        window=o.window_size, bidirectional=True,
    )  # fmt: skip


def _convert_attention(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    o = _attention(hyper)
    names = {"qkv_proj.weight": "qkv.weight"} | ({"qkv_proj.bias": "qkv.bias"} if o.qkv_bias else {})
    for name, original in {"o_proj": "proj", "dwc": "dwc"}.items():
        names |= {f"{name}.{kind}": f"{original}.{kind}" for kind in ("weight", "bias")}
    found = {name: w.take(original) for name, original in names.items()}
    return found | {"positions": w.take("positional_encoding").squeeze(0)}


def _build_norm(**hyper: Any) -> PRepBatchNorm:
    o = options(REP_NORM, hyper, {"channels": ...}, ("seed",))
    return PRepBatchNorm(o.channels, steps=0)


def _convert_norm(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The norm after its training: what is left of the layer norm has weights that count no more."""
    alpha = w.take("alpha")
    module = _build_norm(**hyper).to(alpha.dtype)
    found = dict(module.state_dict()) | {"alpha": alpha}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    found |= {f"batch.tokens.{name}": w.take(f"bn.{name}") for name in ("weight", "bias")}
    return found | {f"batch.tokens.{name}": w.take(f"bn.{name}").detach() for name in buffers}


def _build_linear_norm(**hyper: Any) -> PRepBatchNorm:
    o = options(LINEAR_NORM, hyper, NORM_DEFAULTS)
    require_names(LINEAR_NORM, hyper, norm1=LAYER_EPS, norm2=("repbn",))
    require_checked(LINEAR_NORM, o, {"r0": 1.0})
    eps = LAYER_EPS[class_name(o.norm1).lower()]
    return PRepBatchNorm(o.dim, steps=o.step, warmup_steps=o.warm, layer_eps=eps)


add_importer(ATTENTION, build=_build_attention, convert=_convert_attention)
add_importer(REP_NORM, build=_build_norm, convert=_convert_norm)
add_importer(LINEAR_NORM, build=_build_linear_norm, convert=lambda weights, hyper: prep_norm(weights))
