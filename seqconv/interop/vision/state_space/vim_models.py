"""hustvl/Vim: whole classifiers.

Read in ``vim/models_mamba.py`` (VisionMamba) at dd0358a: absolute position embeddings, RMS norms, one class token in
the middle; rotary positions, other places of the token and flipped sequences are unsupported. All sizes come from the
shapes of the tensors, so that a published state dict (``checkpoint["model"]``) is read without hyper-parameters.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.plain import PlainBackbone
from ...importer import Weights, add_importer, options
from ..parts import count_parts, require_checked, scan_classifier
from .vim import convert as convert_block
from .vim import vim_options

ORIGINAL = "hustvl/Vim:VisionMamba"
PUBLISHED_SIZE = 224
CHECKED: Mapping[str, Any] = {
    "rms_norm": True,
    "if_abs_pos_embed": True,
    "if_rope": False,
    "if_rope_residual": False,
    "if_bidirectional": False,
    "if_cls_token": True,
    "use_double_cls_token": False,
    "use_middle_cls_token": True,
    "init_layer_scale": None,
    "norm_epsilon": 1e-5,
    "ssm_cfg": None,
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
    **CHECKED,
}
IGNORED = ("residual_in_fp32", "fused_add_norm", "final_pool_type", "drop_rate", "device", "dtype", "if_devide_out")


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _options(hyper)
    mixer_options = {name: value for name, value in vim_options(**_block(o)).items() if name != "d_model"}
    backbone = PlainBackbone(
        "vim",
        d_model=o.embed_dim,
        depth=o.depth,
        mixer_options=mixer_options,
        image_size=o.img_size,
        patch_size=o.patch_size,
        stride=o.stride,
        in_channels=o.channels,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier; the position table is split into that of the patches and the token's."""
    o = _options(hyper)
    positions = weights.take("pos_embed")[0]
    patches = len(positions) - 1
    grid, middle = math.isqrt(patches), patches // 2
    table = torch.cat([positions[:middle], positions[middle + 1 :]]).unflatten(0, (grid, grid))
    converted = {
        "backbone.position_embedding": table,
        "backbone.class_position": positions[middle],
        "backbone.class_token": weights.take("cls_token")[0, 0],
    }
    mixer = partial(convert_block, hyper=_block(o))
    return converted | scan_classifier(weights, o.depth, mixer, norm_kinds=("weight",), head=bool(o.num_classes))


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors.

    Patches overlap where that makes the published 224 pixels of them, as of 27 by 27 of 16 pixels with stride 8.
    """
    if "patch_embed.proj.weight" not in weights or "pos_embed" not in weights:
        return {}
    projection = weights.peek("patch_embed.proj.weight")
    depth = count_parts(weights, "layers.{}.norm.weight")
    grid, patch = math.isqrt(weights.peek("pos_embed").shape[1] - 1), projection.shape[-1]
    stride = max(PUBLISHED_SIZE - patch, 0) // max(grid - 1, 1)
    overlapping = 0 < stride < patch and (grid - 1) * stride + patch == PUBLISHED_SIZE
    sizes = {"img_size": PUBLISHED_SIZE, "stride": stride} if overlapping else {"img_size": grid * patch}
    return sizes | {
        "embed_dim": projection.shape[0], "channels": projection.shape[1], "patch_size": patch, "depth": depth,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
        "d_state": weights.peek("layers.0.mixer.A_log").shape[1],
    }  # fmt: skip


def _block(o: Any) -> dict[str, Any]:
    return {
        "d_model": o.embed_dim, "d_state": o.d_state, "bimamba_type": o.bimamba_type, "if_divide_out": o.if_divide_out,
    }  # fmt: skip


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    require_checked(ORIGINAL, o, CHECKED)
    return o


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
