"""hustvl/ViG: gated linear attention on images, its block, and plain classifiers.

Read in ``classification/models/vig.py`` at dfb9d321. In evaluation the original halves the sum of its directions twice,
which differs only in ε of the norm; ``evaluation=False`` reads the equation of training. Class tokens, rotary and
relative positions, lower bounds and other stems are unsupported.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.block import Block2d
from ....vision.backbones.plain_2d import PlainBackbone2d
from ....vision.mixers.gated_linear import ViG2d
from ...importer import Weights, add_importer, options
from ..parts import count_parts, require_checked, require_names, take_pairs

MIXER, BLOCK, MODEL = (f"hustvl/ViG:{name}" for name in ("GatedLinearAttention", "GLABlock", "ViG"))
MIXER_DEFAULTS: Mapping[str, Any] = {
    "d_model": ..., "expand_k": 1.0, "expand_v": 2.0, "num_heads": 4, "layernorm_eps": 1e-5,
    "gate_logit_normalizer": 16, "gate_low_rank_dim": 16, "clamp_min": None, "use_dirpe": False, "use_out_act": False,
    "rope_mode": "none", "use_act_in_conv": True, "use_bias_in_dwconv": False, "evaluation": True,
}  # fmt: skip
MIXER_IGNORED = ("gate_fn", "mode", "fuse_norm", "use_out_gate", "layer_idx", "is_attn")
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": ..., "num_attention_heads": ..., "rms_norm_eps": 1e-6, "init_values": None, "expand_k": 0.5,
    "expand_v": 1.0, "use_out_act": False, "use_act_in_conv": True, "use_bias_in_dwconv": False, "use_swiglu": False,
    "intermediate_size": None, "rope_mode": "none", "use_dirpe": False, "clamp_min": None, "evaluation": True,
}  # fmt: skip
BLOCK_IGNORED = ("hidden_act", "attn_mode", "fuse_norm", "use_out_gate")
DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "stride": 16, "depth": 12, "num_heads": 2, "embed_dim": 192, "channels": 3,
    "num_classes": 1000, "if_cls_token": True, "if_abs_pos_embed": True, "if_rc_pe": False, "use_msg": False,
    "use_middle_cls_token": False, "classification_mode": "avgpool", "use_lower_bound": False, "scan_mode": "default",
    "patch_embed_version": "v1", "use_bias_in_patch": True, "use_act_in_patch": False, "drop_path_rate": 0.1,
    "expand_k": 0.5, "expand_v": 1, "use_out_act": False, "use_swiglu": False, "use_act_in_conv": True,
    "rope_mode": "none", "init_values": None, "use_bias_in_dwconv": False, "use_dirpe": False, "evaluation": True,
}  # fmt: skip
IGNORED = ("drop_rate", "pt_hw_seq_len", "attn_model", "hidden_act", "use_out_gate")
CHECKED: Mapping[str, Any] = {
    "if_cls_token": False, "if_abs_pos_embed": True, "if_rc_pe": False, "use_msg": False, "use_middle_cls_token": False,
    "classification_mode": "avgpool", "use_lower_bound": False, "scan_mode": "default", "patch_embed_version": "v2",
    "rope_mode": "none", "use_dirpe": False, "clamp_min": None, "expand_v": 1,
}  # fmt: skip
SILU = ("swish", "silu")
EVALUATION_SCALE, TRAINING_SCALE = 0.25, 0.5
STEM = ("conv1", "norm1", "conv2", "norm2")
PAIR = ("weight", "bias")


def build_mixer(**hyper: Any) -> ViG2d:
    """The mixer with the options of the original."""
    o = _read(MIXER, hyper, MIXER_DEFAULTS, MIXER_IGNORED)
    return ViG2d(
        o.d_model,
        num_heads=o.num_heads,
        expand_k=float(o.expand_k),
        gate_rank=o.gate_low_rank_dim,
        gate_normalizer=float(o.gate_logit_normalizer),
        conv_activation=o.use_act_in_conv,
        out_activation=o.use_out_act,
        conv_bias=o.use_bias_in_dwconv,
        direction_scale=EVALUATION_SCALE if o.evaluation else TRAINING_SCALE,
        norm_eps=float(o.layernorm_eps),
    )


def convert_mixer(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer, of both layouts."""
    names = {
        "conv2d.weight": "in_proj.0.weight", "qkv_proj.weight": "qkv_proj.weight",
        "gate_down.weight": "gk_proj.0.weight",
        "gate_up.weight": "gk_proj.1.weight", "gate_up.bias": "gk_proj.1.bias", "local_gate.weight": "g_proj.weight",
        "local_gate.bias": "g_proj.bias", "norm.weight": "g_norm.weight", "local_norm.weight": "l_norm.weight",
        "out_proj.weight": "o_proj.weight",
    }  # fmt: skip
    if "in_proj.0.bias" in weights:
        names["conv2d.bias"] = "in_proj.0.bias"
    return {name: weights.take(source) for name, source in names.items()}


def build_block(**hyper: Any) -> Block2d:
    """A block with the options of the original."""
    o = _read(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    mixer = build_mixer(
        d_model=o.hidden_size, num_heads=o.num_attention_heads, layernorm_eps=o.rms_norm_eps, expand_v=o.expand_v,
        **{name: getattr(o, name) for name in ("expand_k", "use_out_act", "use_act_in_conv", "use_bias_in_dwconv")},
        evaluation=o.evaluation,
    )  # fmt: skip
    return Block2d(
        mixer,
        mlp_ratio=_hidden(o.hidden_size, o.use_swiglu, o.intermediate_size) / o.hidden_size,
        layer_scale=o.init_values,
        **_block_options(o.use_swiglu, o.rms_norm_eps),
    )


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a block."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    names = {"mixer_norm.weight": "attn_norm.weight", "mlp_norm.weight": "mlp_norm.weight"}
    if o.use_swiglu:
        names |= {"mlp.up.weight": "mlp.gate_proj.weight", "mlp.down.weight": "mlp.down_proj.weight"}
    else:
        names |= {f"mlp.{n}.{kind}": f"mlp.{m}.{kind}" for n, m in (("up", "fc1"), ("down", "fc2")) for kind in PAIR}
    if o.init_values is not None:
        names |= {"mixer_residual.weight": "gamma1", "mlp_residual.weight": "gamma2"}
    mixer = convert_mixer(weights.part("attn."), {})
    return {name: weights.take(source) for name, source in names.items()} | {f"mixer.{n}": t for n, t in mixer.items()}


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(MODEL, hyper, DEFAULTS, IGNORED)
    if o.stride != o.patch_size:
        got, wanted = f"stride={o.stride}, patch_size={o.patch_size}", "patches next to each other"
        raise argument_error(f"from_original({MODEL!r})", got, wanted, "this alone was checked")
    backbone = PlainBackbone2d(
        "vig",
        d_model=o.embed_dim,
        depth=o.depth,
        mixer_options={
            "num_heads": o.num_heads, "expand_k": float(o.expand_k), "conv_activation": o.use_act_in_conv,
            "out_activation": o.use_out_act, "conv_bias": o.use_bias_in_dwconv,
            "direction_scale": EVALUATION_SCALE if o.evaluation else TRAINING_SCALE,
        },
        image_size=o.img_size,
        patch_size=o.patch_size,
        stem="conv_silu",
        stem_options={"bias": o.use_bias_in_patch, "out_activation": o.use_act_in_patch},
        in_channels=o.channels,
        final_norm="rms",
        mlp_ratio=_hidden(o.embed_dim, o.use_swiglu) / o.embed_dim,
        layer_scale=o.init_values,
        block_options=_block_options(o.use_swiglu),
        initialisation="mlp",
        drop_path=float(o.drop_path_rate),
    )  # fmt: skip
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = options(MODEL, hyper, DEFAULTS, IGNORED)
    positions = weights.take("pos_embed")[0]
    converted = {"backbone.position_embedding": positions.unflatten(0, (math.isqrt(len(positions)), -1))}
    converted["backbone.norm.weight"] = weights.take("norm.weight")
    names = {f"backbone.stem.{name}": f"patch_embed.proj.{i}" for name, i in zip(STEM, (0, 1, 3, 4), strict=True)}
    for name, source in (names | ({"head": "head"} if o.num_classes else {})).items():
        unbiased = name.startswith("backbone.stem.conv") and not o.use_bias_in_patch
        converted |= take_pairs(weights, {name: source}, ("weight",) if unbiased else PAIR)
    block = {
        "hidden_size": o.embed_dim, "num_attention_heads": o.num_heads, "init_values": o.init_values,
        "use_swiglu": o.use_swiglu,
    }  # fmt: skip
    for index in range(o.depth):
        found = convert_block(weights.part(f"blocks.{index}."), block)
        converted |= {f"backbone.blocks.{index}.{name}": tensor for name, tensor in found.items()}
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """Sizes, from the shapes of the tensors; the activations are not told by them."""
    if "pos_embed" not in weights or "blocks.0.attn.g_norm.weight" not in weights:
        return {}
    depth = count_parts(weights, "blocks.{}.attn_norm.weight")
    width, head = len(weights.peek("norm.weight")), len(weights.peek("blocks.0.attn.g_norm.weight"))
    stem = weights.peek("patch_embed.proj.0.weight")
    patch = 2 * (stem.shape[-1] - 1)
    keys = (len(weights.peek("blocks.0.attn.qkv_proj.weight")) - width) // 2
    return {
        "depth": depth, "embed_dim": width, "num_heads": width // head, "expand_k": keys / width, "patch_size": patch,
        "stride": patch, "channels": stem.shape[1], "img_size": math.isqrt(weights.peek("pos_embed").shape[1]) * patch,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
        "use_bias_in_patch": "patch_embed.proj.0.bias" in weights,
        "use_swiglu": "blocks.0.mlp.gate_proj.weight" in weights,
        "init_values": 1.0 if "blocks.0.gamma1" in weights else None,
        "if_cls_token": False, "patch_embed_version": "v2",
    }  # fmt: skip


def _hidden(width: int, gated: bool, asked: int | None = None) -> int:
    """Hidden width of the MLP; the plain one has four times the width whatever is asked."""
    return (asked or 256 * -(-int(8 * width / 3) // 256)) if gated else 4 * width


def _block_options(swiglu: bool, norm_eps: float = 1e-6) -> dict[str, Any]:
    return {"norm": "rms", "norm_eps": norm_eps, "mlp": "swiglu" if swiglu else "silu", "mlp_bias": not swiglu}


def _read(original: str, hyper: Mapping[str, Any], defaults: Mapping[str, Any], ignored: Any) -> Any:
    o = options(original, hyper, defaults, ignored)
    require_names(original, hyper, hidden_act=SILU, gate_fn=SILU)
    require_checked(original, o, CHECKED)
    return o


add_importer(MIXER, build=build_mixer, convert=convert_mixer)
add_importer(BLOCK, build=build_block, convert=convert_block)
add_importer(MODEL, build=build, convert=convert, infer=infer)
