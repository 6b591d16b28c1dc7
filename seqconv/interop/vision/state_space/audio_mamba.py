"""mhamzaerol/Audio-Mamba-AuM: whole classifiers of spectrograms.

Read in ``src/models/mamba_models.py`` (AudioMamba), ``src/utilities/tokenization.py`` and
``vim-mamba_ssm/mamba_ssm/modules/mamba_simple.py`` at 7f6b38e: blocks of all three types (``bimamba_type`` ``"none"``,
``"v1"``, ``"v2"``), layers in pairs (``if_bidirectional``), a class token at any one place or the mean, patches read by
frequency or by time. Rotary positions, two class tokens, layer scales, sequences flipped at random and pretrained
weights that the constructor would load are unsupported. The position of the class token comes first in the original's
table.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import SpectrogramClassifier
from ....vision.backbones.plain import PlainBackbone
from ...importer import Weights, add_importer, options
from ..parts import PAIR, count_parts, in_pairs, require_checked, scan_classifier
from .vim import POOLINGS, convert_mixer, mixer_arguments

ORIGINAL = "mhamzaerol/Audio-Mamba-AuM:AudioMamba"
CHECKED: Mapping[str, tuple[Any, ...]] = {
    "if_abs_pos_embed": (True,),
    "abs_pos_patch_grid_size": (None,),
    "if_rope": (False,),
    "if_rope_residual": (False,),
    "flip_img_sequences_ratio": (-1.0, 0.0),
    "use_double_cls_token": (False,),
    "init_layer_scale": (None,),
    "imagenet_pretrain": (False,),
    "aum_pretrain": (False,),
}
"""Options of which these values were checked; the first is the default."""

DEFAULTS: Mapping[str, Any] = {
    "spectrogram_size": (128, 1024),
    "patch_size": (16, 16),
    "strides": (16, 16),
    "depth": 24,
    "embed_dim": 768,
    "channels": 1,
    "num_classes": 527,
    "ssm_cfg": None,
    "drop_path_rate": 0.0,
    "rms_norm": True,
    "norm_epsilon": 1e-5,
    "final_pool_type": "mean",
    "if_cls_token": True,
    "use_middle_cls_token": True,
    "use_end_cls_token": False,
    "if_bidirectional": False,
    "if_bimamba": False,
    "bimamba_type": "v2",
    "if_devide_out": True,
    "transpose_token_sequence": False,
    **{name: values[0] for name, values in CHECKED.items()},
}
IGNORED = (
    "input_T_F", "drop_rate", "initializer_cfg", "fused_add_norm", "residual_in_fp32", "device", "dtype", "ft_seq_len",
    "pt_hw_seq_len", "imagenet_pretrain_path", "imagenet_pretrain_modelkey", "aum_pretrain_path", "bilinear_rope",
    "aum_pretrain_fstride", "aum_pretrain_tstride", "imagenet_load_double_cls_token", "flexible_patch_sizes",
    "imagenet_load_middle_cls_token", "use_PI_for_patch_embed",
)  # fmt: skip
"""Shapes of inputs, initial values, precision, and options of what is not read."""


def build(**hyper: Any) -> SpectrogramClassifier:
    """The classifier with the options of the original."""
    o = _options(hyper)
    mixer, mixer_options = mixer_arguments(o.bimamba_type, **_mixer(o))
    backbone = PlainBackbone(
        mixer,
        d_model=o.embed_dim,
        depth=o.depth,
        mixer_options=mixer_options,
        image_size=_pair(o.spectrogram_size),
        patch_size=_pair(o.patch_size),
        stride=_pair(o.strides),
        in_channels=o.channels,
        pooling="cls" if o.if_cls_token else POOLINGS[o.final_pool_type],
        cls_position="middle" if o.use_middle_cls_token else "last" if o.use_end_cls_token else "first",
        order="column" if o.transpose_token_sequence else "row",
        pairs=o.if_bidirectional,
        norm="rms" if o.rms_norm else "layer",
        norm_options={"eps": float(o.norm_epsilon)},
        drop_path=float(o.drop_path_rate),
    )
    return SpectrogramClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier."""
    o = _options(hyper)
    sizes = zip(_pair(o.spectrogram_size), _pair(o.patch_size), _pair(o.strides), strict=True)
    grid = [(size - patch) // stride + 1 for size, patch, stride in sizes]
    positions, converted = weights.take("pos_embed.pos_embed")[0], dict[str, Tensor]()
    if o.if_cls_token:
        converted["backbone.cls_position_embedding"], positions = positions[0], positions[1:]
        converted["backbone.cls_token"] = weights.take("cls_token")[0, 0]
    converted["backbone.position_embedding"] = positions.unflatten(0, grid)
    return converted | scan_classifier(
        weights, o.depth, partial(convert_mixer, kind=o.bimamba_type, **_mixer(o)),
        norm_kinds=("weight",) if o.rms_norm else PAIR, head=bool(o.num_classes),
        place=in_pairs if o.if_bidirectional else str,
    )  # fmt: skip


def infer(weights: Weights) -> dict[str, Any]:
    """The sizes, from the shapes of the tensors; spectrograms have 128 bands, patches do not overlap."""
    if "patch_embed.proj.weight" not in weights or "pos_embed.pos_embed" not in weights:
        return {}
    projection, token = weights.peek("patch_embed.proj.weight"), "cls_token" in weights
    depth = count_parts(weights, "layers.{}.norm.weight")
    kind = "v2" if "layers.0.mixer.D_b" in weights else "v1" if "layers.0.mixer.A_b_log" in weights else "none"
    rows = max(1, DEFAULTS["spectrogram_size"][0] // projection.shape[2])
    columns = (weights.peek("pos_embed.pos_embed").shape[1] - token) // rows
    return {
        "embed_dim": projection.shape[0], "channels": projection.shape[1], "depth": depth, "bimamba_type": kind,
        "patch_size": tuple(projection.shape[2:]), "strides": tuple(projection.shape[2:]), "if_cls_token": token,
        "spectrogram_size": (rows * projection.shape[2], columns * projection.shape[3]),
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
        "ssm_cfg": {"d_state": weights.peek("layers.0.mixer.A_log").shape[1]},
        "rms_norm": "norm_f.bias" not in weights,
    }  # fmt: skip


def _mixer(o: Any) -> dict[str, Any]:
    """Arguments of the mixer."""
    return {"d_model": o.embed_dim, **(o.ssm_cfg or {}), "halve": o.if_devide_out}


def _pair(size: Any) -> tuple[int, int]:
    first, second = (size, size) if isinstance(size, int) else size
    return int(first), int(second)


def _options(hyper: Mapping[str, Any]) -> Any:
    o, operation = options(ORIGINAL, hyper, DEFAULTS, IGNORED), f"from_original({ORIGINAL!r})"
    require_checked(ORIGINAL, o, CHECKED)
    o.bimamba_type = "v1" if o.if_bimamba else o.bimamba_type
    if o.bimamba_type not in ("none", "v1", "v2"):
        got = f"bimamba_type={o.bimamba_type!r}"
        raise argument_error(operation, got, "'none', 'v1' or 'v2'", "pass what the original was built with")
    if o.final_pool_type == "max" or not (o.if_cls_token or o.final_pool_type in POOLINGS):
        got = f"final_pool_type={o.final_pool_type!r}" + ("" if o.if_cls_token else " without a class token")
        raise argument_error(operation, got, "'mean' or 'none'", "these alone were checked")
    if o.transpose_token_sequence and _pair(o.patch_size) != _pair(o.strides):
        got = f"transpose_token_sequence with patch_size={o.patch_size} and strides={o.strides}"
        raise argument_error(operation, got, "patches next to each other: the original fails otherwise", "check them")
    return o


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
