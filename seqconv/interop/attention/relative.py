"""Reading Transformer-XL's attention (kimiyoung/transformer-xl at 44781ed2) and Galerkin and Fourier attention.

Read in ``pytorch/mem_transformer.py`` and, of scaomath/galerkin-transformer, in ``libs/layers.py`` at f9e7d6ab.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...blocks import Block
from ...mixers.attention.galerkin import NORM_EPS, GalerkinAttention
from ...mixers.attention.transformer_xl import TransformerXL
from ..importer import Weights, add_importer, options

TRANSFORMER_XL = "kimiyoung/transformer-xl:RelPartialLearnableMultiHeadAttn"
TRANSFORMER_XL_DEFAULTS = {
    "n_head": ..., "d_model": ..., "d_head": ..., "dropout": 0.0, "dropatt": 0.0, "tgt_len": None, "ext_len": None,
    "mem_len": None, "pre_lnorm": False, "qlen": None,
}  # fmt: skip
GALERKIN = "scaomath/galerkin-transformer:SimpleAttention"
GALERKIN_DEFAULTS = {
    "n_head": ..., "d_model": ..., "pos_dim": 1, "attention_type": "fourier", "xavier_init": 1e-2,
    "diagonal_weight": 1e-2, "symmetric_init": False, "norm": False, "norm_type": "layer", "eps": 1e-5,
}  # fmt: skip
GALERKIN_IGNORED = ("dropout", "debug", "seed")
"""``dropout`` has no effect there but that its presence drops half of the attention."""
GALERKIN_KINDS = {
    "galerkin": "galerkin", "fourier": "fourier", "integral": "fourier", "local": "fourier", "linear": "linear",
    "global": "linear",
}  # fmt: skip


def _build_transformer_xl(**hyper: Any) -> Block:
    """The module with its residual connection and norm; ``qlen`` is another word for ``tgt_len``."""
    o = options(TRANSFORMER_XL, hyper, TRANSFORMER_XL_DEFAULTS, ("seed",))
    if o.ext_len:
        got = f"ext_len={o.ext_len}"
        raise argument_error(f"from_original({TRANSFORMER_XL!r})", got, "no extended context", "leave it out")
    lengths = {"segment_length": o.tgt_len or o.qlen or 128, "mem_length": o.mem_len or 0}
    mixer = TransformerXL(o.d_model, num_heads=o.n_head, head_dim=o.d_head, dropout=o.dropatt, **lengths)
    return Block(mixer, norm="layer", norm_placement="pre" if o.pre_lnorm else "post", dropout=o.dropout)


def _convert_transformer_xl(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    names = {"qkv_proj.weight": "qkv_net.weight", "r_proj.weight": "r_net.weight", "o_proj.weight": "o_net.weight"}
    names |= {"content_bias": "r_w_bias", "position_bias": "r_r_bias"}
    found = {f"mixer.{name}": w.take(original) for name, original in names.items()}
    return found | {f"mixer_norm.{kind}": w.take(f"layer_norm.{kind}") for kind in ("weight", "bias")}


def _galerkin(hyper: Mapping[str, Any]) -> Any:
    o = options(GALERKIN, hyper, GALERKIN_DEFAULTS, GALERKIN_IGNORED)
    if o.attention_type not in GALERKIN_KINDS:
        raise unknown_name(f"from_original({GALERKIN!r})", "attention_type", o.attention_type, GALERKIN_KINDS)
    wanted = {"symmetric_init": False, "norm_type": "layer", "eps": NORM_EPS}
    for name, value in wanted.items():
        if getattr(o, name) != value:
            got = f"{name}={getattr(o, name)!r}"
            raise argument_error(f"from_original({GALERKIN!r})", got, f"{value!r}", "this variant is not supported")
    if o.pos_dim > 1:
        got, remedy = f"pos_dim={o.pos_dim}", "this variant is not supported"
        raise argument_error(f"from_original({GALERKIN!r})", got, "0 or 1 coordinate", remedy)
    return o


def _build_galerkin(**hyper: Any) -> GalerkinAttention:
    o = _galerkin(hyper)
    return GalerkinAttention(
        o.d_model,
        kind=GALERKIN_KINDS[o.attention_type],
        num_heads=o.n_head,
        norm=o.norm,
        positions=o.pos_dim == 1,
        init_gain=o.xavier_init,
        diagonal_weight=o.diagonal_weight,
        bidirectional=True,
    )


def _convert_galerkin(w: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """One norm per head there becomes one of all heads here."""
    o = _galerkin(hyper)
    found = {
        f"{name}_proj.{kind}": w.take(f"linears.{i}.{kind}")
        for i, name in enumerate("qkv")
        for kind in ("weight", "bias")
    }
    for part in ("k", "q" if GALERKIN_KINDS[o.attention_type] == "fourier" else "v") if o.norm else ():
        for kind in ("weight", "bias"):
            heads = [w.take(f"norm_{part.upper()}.{head}.{kind}") for head in range(o.n_head)]
            found[f"{part}_norm.{kind}"] = torch.stack(heads)
    return found | ({f"out_proj.{kind}": w.take(f"fc.{kind}") for kind in ("weight", "bias")} if o.pos_dim > 0 else {})


add_importer(TRANSFORMER_XL, build=_build_transformer_xl, convert=_convert_transformer_xl)
add_importer(GALERKIN, build=_build_galerkin, convert=_convert_galerkin)
