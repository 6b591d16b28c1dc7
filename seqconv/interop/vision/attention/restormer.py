"""swz30/Restormer: the block of attention between channels and a gated network, both with depthwise convolutions.

Read in ``basicsr/models/archs/restormer_arch.py`` (TransformerBlock, Attention, FeedForward) at df766d55.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....vision.backbones.block import Block2d
from ....vision.mixers.attention.cross_covariance import CrossCovariance2d
from ...importer import Weights, add_importer, options

ORIGINAL = "swz30/Restormer:TransformerBlock"
DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "num_heads": ..., "ffn_expansion_factor": ..., "bias": ..., "LayerNorm_type": ...,
}  # fmt: skip
BIAS_FREE = "BiasFree"
"""The norm that leaves the mean; any other name is a layer norm."""
D_CONV = 3
PROJECTIONS = {
    "mixer.qkv_proj": "attn.qkv", "mixer.conv2d": "attn.qkv_dwconv", "mixer.out_proj": "attn.project_out",
    "mlp.up": "ffn.project_in", "mlp.conv2d": "ffn.dwconv", "mlp.down": "ffn.project_out",
}  # fmt: skip


def build(**hyper: Any) -> Block2d:
    """The block with the options of the original."""
    o = options(ORIGINAL, hyper, DEFAULTS, ("map",))
    mixer = CrossCovariance2d(o.dim, num_heads=o.num_heads, bias=o.bias, out_bias=o.bias, d_conv=D_CONV)
    norm = "uncentred" if o.LayerNorm_type == BIAS_FREE else "layer"
    return Block2d(mixer, mlp="conv_geglu", mlp_ratio=float(o.ffn_expansion_factor), mlp_bias=o.bias, norm=norm)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block; 1 by 1 convolutions become linear layers."""
    o = options(ORIGINAL, hyper, DEFAULTS, ("map",))
    converted = {"mixer.temperature": weights.take("attn.temperature").flatten()}
    for name, source in {"mixer_norm": "norm1.body", "mlp_norm": "norm2.body"}.items():
        kinds = ("weight",) if o.LayerNorm_type == BIAS_FREE else ("weight", "bias")
        converted |= {f"{name}.{kind}": weights.take(f"{source}.{kind}") for kind in kinds}
    for name, source in PROJECTIONS.items():
        weight = weights.take(f"{source}.weight")
        converted[f"{name}.weight"] = weight if name.endswith("conv2d") else weight.flatten(1)
        if o.bias:
            converted[f"{name}.bias"] = weights.take(f"{source}.bias")
    return converted


add_importer(ORIGINAL, build=build, convert=convert)
