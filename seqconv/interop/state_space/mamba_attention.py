"""Reading the attention layer of state-spaces/mamba, the other half of its hybrids.

Every option was read in the original at e9594ce, ``mamba_ssm/modules/mha.py``. Its decoding after a prompt with a short
convolution is not reproduced: it stores the convolution's outputs where it reads inputs.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...mixers.attention.attention import Attention
from ..importer import Weights, add_importer, options
from .mamba import convert_convolution

ORIGINAL = "state-spaces/mamba:MHA"
NAMES = (
    ORIGINAL,
    "state-spaces/mamba:mha.py:MHA",
    "state-spaces/mamba:mamba_ssm/modules/mha.py:MHA",
    "state-spaces/mamba:mamba_ssm.modules.mha.MHA",
)
DEFAULTS = {
    "embed_dim": ...,
    "num_heads": ...,
    "num_heads_kv": None,
    "head_dim": None,
    "mlp_dim": 0,
    "qkv_proj_bias": True,
    "out_proj_bias": True,
    "softmax_scale": None,
    "causal": False,
    "d_conv": 0,
    "rotary_emb_dim": 0,
    "rotary_emb_base": 10000.0,
    "rotary_emb_interleaved": False,
}
IGNORED = ("layer_idx", "device", "dtype")


def attention_options(**hyper: Any) -> dict[str, Any]:
    """Arguments of the module for the original's.

    Raises:
        ValueError: an MLP parallel to the heads, a softmax scale of its own, interleaved rotary channels, or a short
            convolution in a bidirectional layer.
    """
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    if o.mlp_dim or o.softmax_scale is not None or o.rotary_emb_interleaved or (o.d_conv and not o.causal):
        got = f"mlp_dim={o.mlp_dim}, softmax_scale={o.softmax_scale}, interleaved={o.rotary_emb_interleaved}"
        wanted = "heads alone, scaled by head_dim, rotated by halves, causal where there is a convolution"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "this layer cannot be carried over")
    return {
        "d_model": o.embed_dim,
        "num_heads": o.num_heads,
        "num_kv_heads": o.num_heads_kv,
        "head_dim": o.head_dim,
        "rotary": o.rotary_emb_dim > 0,
        "rotary_base": float(o.rotary_emb_base),
        "rotary_dim": o.rotary_emb_dim or None,
        "d_conv": o.d_conv or None,
        "qkv_bias": o.qkv_proj_bias,
        "o_bias": o.out_proj_bias,
        "bidirectional": not o.causal,
    }


def build(**hyper: Any) -> Attention:
    """The module for the original's arguments."""
    return Attention(**attention_options(**hyper))


def convert_attention(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The original's tensors: queries, keys and values are concatenated in both."""
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    converted = {"qkv_proj.weight": weights.take("in_proj.weight"), "o_proj.weight": weights.take("out_proj.weight")}
    if o.qkv_proj_bias:
        converted["qkv_proj.bias"] = weights.take("in_proj.bias")
    if o.out_proj_bias:
        converted["o_proj.bias"] = weights.take("out_proj.bias")
    if o.rotary_emb_dim:
        weights.ignore("rotary_emb.inv_freq")
    return converted | (convert_convolution(weights, True) if o.d_conv else {})


add_importer(*NAMES, build=build, convert=convert_attention)
