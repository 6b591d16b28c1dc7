"""hustvl/Vim: whole classifiers.

Read in ``vim/models_mamba.py`` (VisionMamba) at dd0358a: absolute position embeddings, a class token in the middle or
in front, the mean or the last patch without one; rotary positions, two tokens, layer scales and flipped sequences are
unsupported. All sizes come from the shapes of the tensors, so that a published state dict (``checkpoint["model"]``) is
read without hyper-parameters.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.plain import PlainBackbone
from ...importer import Weights, add_importer, options
from ..parts import PAIR, count_parts, in_pairs, require_checked, scan_classifier
from .vim import POOLINGS, convert_mixer, mixer_arguments

ORIGINAL = "hustvl/Vim:VisionMamba"
PUBLISHED_SIZE = 224
CHECKED: Mapping[str, Any] = {
    "if_abs_pos_embed": True,
    "if_rope": False,
    "if_rope_residual": False,
    "use_double_cls_token": False,
    "init_layer_scale": None,
    "flip_img_sequences_ratio": (-1.0, 0.0),
}
"""Options of which one value was checked."""

DEFAULTS: Mapping[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "stride": None,
    "depth": 24,
    "embed_dim": 192,
    "d_state": 16,
    "channels": 3,
    "num_classes": 1000,
    "drop_path_rate": 0.0,
    "bimamba_type": "v2",
    "if_divide_out": True,
    "if_bimamba": False,
    "if_bidirectional": False,
    "rms_norm": True,
    "norm_epsilon": 1e-5,
    "ssm_cfg": None,
    "if_cls_token": True,
    "use_middle_cls_token": True,
    "final_pool_type": "none",
    **{name: value[0] if isinstance(value, tuple) else value for name, value in CHECKED.items()},
}
IGNORED = (
    "residual_in_fp32", "fused_add_norm", "drop_rate", "device", "dtype", "if_devide_out", "initializer_cfg",
    "ft_seq_len", "pt_hw_seq_len",
)  # fmt: skip


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _options(hyper)
    mixer, mixer_options = mixer_arguments(o.bimamba_type, **_block(o))
    backbone = PlainBackbone(
        mixer,
        d_model=o.embed_dim,
        depth=o.depth,
        mixer_options=mixer_options,
        image_size=o.img_size,
        patch_size=o.patch_size,
        stride=o.stride,
        in_channels=o.channels,
        pooling="cls" if o.if_cls_token else POOLINGS[o.final_pool_type],
        cls_position="middle" if o.use_middle_cls_token else "first",
        pairs=o.if_bidirectional,
        norm="rms" if o.rms_norm else "layer",
        norm_options={"eps": float(o.norm_epsilon)},
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier; the position table is split into that of the patches and the token's."""
    o = _options(hyper)
    table, converted = weights.take("pos_embed")[0], dict[str, Tensor]()
    if o.if_cls_token:
        place = (len(table) - 1) // 2 if o.use_middle_cls_token else 0
        converted["backbone.cls_position_embedding"] = table[place]
        converted["backbone.cls_token"] = weights.take("cls_token")[0, 0]
        table = torch.cat([table[:place], table[place + 1 :]])
    converted["backbone.position_embedding"] = table.unflatten(0, (math.isqrt(len(table)), -1))
    return converted | scan_classifier(
        weights, o.depth, partial(convert_mixer, kind=o.bimamba_type, **_block(o)),
        norm_kinds=("weight",) if o.rms_norm else PAIR, head=bool(o.num_classes),
        place=in_pairs if o.if_bidirectional else str,
    )  # fmt: skip


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors.

    Patches overlap where that makes the published 224 pixels of them, as of 27 by 27 of 16 pixels with stride 8.
    """
    if "patch_embed.proj.weight" not in weights or "pos_embed" not in weights:
        return {}
    projection = weights.peek("patch_embed.proj.weight")
    depth = count_parts(weights, "layers.{}.norm.weight")
    token, patch = "cls_token" in weights, projection.shape[-1]
    grid, mixer = math.isqrt(weights.peek("pos_embed").shape[1] - token), weights.part("layers.0.mixer.")
    stride = max(PUBLISHED_SIZE - patch, 0) // max(grid - 1, 1)
    overlapping = 0 < stride < patch and (grid - 1) * stride + patch == PUBLISHED_SIZE
    sizes = {"img_size": PUBLISHED_SIZE, "stride": stride} if overlapping else {"img_size": grid * patch}
    return sizes | {
        "embed_dim": projection.shape[0], "channels": projection.shape[1], "patch_size": patch, "depth": depth,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
        "d_state": mixer.peek("A_log").shape[1], "if_cls_token": token, "rms_norm": "norm_f.bias" not in weights,
        "bimamba_type": "v2" if "D_b" in mixer else "v1" if "A_b_log" in mixer else "none",
    }  # fmt: skip


def _block(o: Any) -> dict[str, Any]:
    return {"d_model": o.embed_dim, "d_state": o.d_state, **(o.ssm_cfg or {}), "halve": o.if_divide_out}


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    require_checked(ORIGINAL, o, CHECKED)
    if o.final_pool_type == "max" or not (o.if_cls_token or o.final_pool_type in POOLINGS):
        got = f"final_pool_type={o.final_pool_type!r}" + ("" if o.if_cls_token else " without a class token")
        raise argument_error(f"from_original({ORIGINAL!r})", got, "'mean' or 'none'", "these alone were checked")
    o.bimamba_type = "v1" if o.if_bimamba else o.bimamba_type
    return o


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
