"""facebookresearch/xcit: the block of attention between channels.

Read in ``xcit.py`` (XCA, LPI, XCABlock) at 82f5291f. A block by itself has PyTorch's layer norms (``norm_eps=1e-5``),
one of the models ``norm_eps=1e-6``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....vision.mixers.attention.cross_covariance import XCiTBlock
from ...importer import Weights, add_importer, options
from ..parts import require_names

ORIGINAL = "facebookresearch/xcit:XCABlock"
DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "num_heads": ..., "mlp_ratio": 4.0, "qkv_bias": False, "eta": 1.0, "drop_path": 0.0,
    "norm_eps": 1e-5,
}  # fmt: skip
IGNORED = ("map", "qk_scale", "drop", "attn_drop", "act_layer", "norm_layer", "num_tokens")
NAMES = {
    "mixer_norm": "norm1", "mlp_norm": "norm2", "local_norm": "norm3", "mixer.out_proj": "attn.proj",
    "local.conv1": "local_mp.conv1", "local.conv2": "local_mp.conv2", "local.norm": "local_mp.bn",
    "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2",
}  # fmt: skip
SCALES = {"mixer_scale": "gamma1", "mlp_scale": "gamma2", "local_scale": "gamma3"}


def build(**hyper: Any) -> XCiTBlock:
    """The block with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    require_names(ORIGINAL, hyper, act_layer=("gelu",), norm_layer=("layernorm",))
    sizes = {"num_heads": o.num_heads, "bias": o.qkv_bias, "norm_eps": float(o.norm_eps)}
    return XCiTBlock(o.dim, mlp_ratio=float(o.mlp_ratio), layer_scale=float(o.eta), drop_path=o.drop_path, **sizes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    converted = {name: weights.take(source) for name, source in SCALES.items()}
    converted["mixer.temperature"] = weights.take("attn.temperature").flatten()
    for name, source in {**NAMES, "mixer.qkv_proj": "attn.qkv"}.items():
        converted[f"{name}.weight"] = weights.take(f"{source}.weight")
        if name != "mixer.qkv_proj" or o.qkv_bias:
            converted[f"{name}.bias"] = weights.take(f"{source}.bias")
    for kind in ("running_mean", "running_var", "num_batches_tracked"):
        converted[f"local.norm.{kind}"] = weights.take(f"local_mp.bn.{kind}")
    return converted


add_importer(ORIGINAL, build=build, convert=convert)
