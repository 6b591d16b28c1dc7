"""OpenGVLab/VideoMamba: classifiers of images.

Read in ``videomamba/image_sm/models/videomamba.py`` (VisionMamba), ``videomamba_distill.py`` and ``main.py`` there, and
``mamba/mamba_ssm/modules/mamba_simple.py``, at f3427e42: Vim's classifier with the class token first, the sum of both
directions not halved. The layers that a student of self-distillation has after its backbone (``distill_head``) are for
training alone; they are left out, as the original's own loading does. All sizes follow from the shapes of the tensors,
patches being taken to lie next to each other. Models without the reversed direction are unsupported.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.plain import PlainBackbone
from ....zoo.state_space.videomamba_images import ORIGINAL
from ...importer import Weights, add_importer, options
from ..parts import PAIR, count_parts, require_checked, scan_classifier
from .vim import convert as convert_vim
from .vim import vim_options

DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "stride": 16, "depth": 24, "embed_dim": 192, "channels": 3, "num_classes": 1000,
    "drop_path_rate": 0.1, "ssm_cfg": None, "norm_epsilon": 1e-5, "rms_norm": True, "bimamba": True, "d_state": 16,
}  # fmt: skip
IGNORED = (
    "drop_rate", "initializer_cfg", "fused_add_norm", "residual_in_fp32", "device", "dtype", "model_type",
    "teacher_embed_dim", "pretrained",
)  # fmt: skip
CHECKED: Mapping[str, Any] = {"norm_epsilon": 1e-5, "bimamba": True}
DISTILLATION = {"distill_head.0": ("weight", "bias"), "distill_head.1": PAIR}


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original, for images of any size."""
    o = _options(hyper)
    mixer_options = {name: value for name, value in vim_options(**mixer_hyper(o)).items() if name != "d_model"}
    backbone = PlainBackbone(
        "vim",
        d_model=o.embed_dim,
        depth=o.depth,
        mixer_options=mixer_options,
        image_size=o.img_size,
        patch_size=o.patch_size,
        stride=o.stride,
        in_channels=o.channels,
        cls_position="first",
        initialisation="scan",
        norm="rms" if o.rms_norm else "layer",
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier; the table of positions is split into that of the patches and the token's."""
    o = _options(hyper)
    positions, norm_kinds = weights.take("pos_embed")[0], ("weight",) if o.rms_norm else PAIR
    grid = math.isqrt(len(positions) - 1)
    converted = {
        "backbone.position_embedding": positions[1:].unflatten(0, (grid, grid)),
        "backbone.cls_position_embedding": positions[0],
        "backbone.cls_token": weights.take("cls_token")[0, 0],
    }
    for name in (f"{module}.{kind}" for module, kinds in DISTILLATION.items() for kind in kinds):
        if name in weights:
            weights.take(name)
    mixer = partial(convert_vim, hyper=mixer_hyper(o))
    return converted | scan_classifier(weights, o.depth, mixer, norm_kinds=norm_kinds, head=bool(o.num_classes))


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    if "patch_embed.proj.weight" not in weights or "pos_embed" not in weights:
        return {}
    width, channels, patch, _ = weights.peek("patch_embed.proj.weight").shape
    return {
        "embed_dim": width, "channels": channels, "patch_size": patch, "stride": patch,
        "img_size": math.isqrt(weights.peek("pos_embed").shape[1] - 1) * patch,
        "depth": count_parts(weights, "layers.{}.norm.weight"), "rms_norm": "norm_f.bias" not in weights,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
        "d_state": weights.peek("layers.0.mixer.A_log").shape[1],
    }  # fmt: skip


def mixer_hyper(o: Any) -> dict[str, Any]:
    """Options of the mixers, as Vim's reader has them, for those of a classifier of images or videos."""
    given = {"d_state": o.d_state, **(o.ssm_cfg or {})}
    return {**given, "d_model": o.embed_dim, "bimamba_type": "v2", "if_divide_out": False}


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    require_checked(ORIGINAL, o, CHECKED)
    return o


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
