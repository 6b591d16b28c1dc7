"""YuHengsss/MSVMamba: the mixer of two resolutions, and whole classifiers.

Read in ``classification/models/vmamba.py`` (SS2D, VSSBlock, VSSM) and ``utils.py`` at c3940191, for
``sscore_type="multiscale_4scan_12"`` in all stages with three coarse scans of one parameter set, which all published
models have. The original's first parameter set is that of the coarse scans.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.hierarchical import HierarchicalBackbone
from ....vision.mixers.multi_scale import MultiScale2d
from ...importer import Weights, add_importer, options
from ..parts import require_checked, require_names, stage_dims
from .vmamba_models import (
    DOWNSAMPLINGS,
    STEMS,
    check_versions,
    convert_stages,
    downsampling_modules,
    stage_depths,
    stem_modules,
    take_modules,
)

MIXER, MODEL = "YuHengsss/MSVMamba:SS2D", "YuHengsss/MSVMamba:VSSM"
SHARED: Mapping[str, Any] = {
    "sscore_type": "None", "ms_stage": (0, 1, 2, 3), "ms_split": (1, 3), "add_se": False, "sep_norm": False,
    "convFFN": True, "ffn_dropout": 0.0, "upsample": "interpolate", "add_conv": True, "b1_ssf": False,
    "concat_norm": False, "ms_fusion": None,
}  # fmt: skip
MIXER_DEFAULTS: Mapping[str, Any] = {
    **SHARED, "d_model": 96, "d_state": 16, "ssm_ratio": 2.0, "ssm_rank_ratio": 2.0, "dt_rank": "auto", "d_conv": 3,
    "current_layer": 0, "conv_bias": True, "bias": False, "forward_type": "v2",
}  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    **SHARED, "patch_size": 4, "in_chans": 3, "num_classes": 1000, "depths": (2, 2, 9, 2), "dims": (96, 192, 384, 768),
    "ssm_d_state": 16, "ssm_ratio": 2.0, "ssm_rank_ratio": 2.0, "ssm_dt_rank": "auto", "mlp_ratio": 4.0,
    "ssm_conv": 3, "ssm_conv_bias": True, "ssm_act_layer": "silu", "forward_type": "v2", "patch_norm": True,
    "downsample_version": "v2", "patchembed_version": "v1", "drop_path_rate": 0.1,
}  # fmt: skip
IGNORED = (
    "image", "norm_layer", "use_checkpoint", "dropout", "ssm_drop_rate", "mlp_drop_rate", "mlp_act_layer",
    "ssm_simple_init", "simple_init", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor",
)  # fmt: skip
CHECKED: Mapping[str, Any] = {
    "sscore_type": "multiscale_4scan_12", "ms_stage": [0, 1, 2, 3], "ms_split": [1, 3], "convFFN": True,
    "upsample": "interpolate", "add_conv": True, "b1_ssf": False, "concat_norm": False, "ms_fusion": None,
    "mlp_ratio": 0.0, "ssm_act_layer": "silu", "forward_type": ("v2", "v1"),
}  # fmt: skip
FFN_EXPANSION = 2.0
SQUEEZE = 8


def build_mixer(**hyper: Any) -> MultiScale2d:
    """The mixer with the options of the original."""
    o = _read(MIXER, hyper, MIXER_DEFAULTS)
    sizes = {"d_state": o.d_state, "d_conv": o.d_conv, "expand": float(o.ssm_ratio), "dt_rank": o.dt_rank}
    sizes |= {"bias": o.bias, "conv_bias": o.conv_bias}
    return MultiScale2d(o.d_model, separate_norms=o.sep_norm, squeeze=SQUEEZE if o.add_se else 0, **sizes)


def convert_mixer(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    names = {"conv2d": "conv2d", "coarse_conv2d": "conv2d_b1", "in_proj": "in_proj", "out_proj": "out_proj"}
    separate = "out_norm1.weight" in weights
    norms = {"norm": "out_norm1", "coarse_norm": "out_norm"} if separate else {"norm": "out_norm"}
    if separate:
        weights.ignore("out_norm0.weight", "out_norm0.bias")  # the same as out_norm
    if "se.fc.0.weight" in weights:
        names |= {"squeeze.down": "se.fc.0", "squeeze.up": "se.fc.2"}
    converted = take_modules(weights, "", "", {**names, **norms})
    bias = weights.take("dt_projs_bias")
    sets = {
        "x_proj.weight": weights.take("x_proj_weight"), "dt_proj.weight": weights.take("dt_projs_weight"),
        "dt_bias": bias, "A_log": weights.take("A_logs").unflatten(0, bias.shape),
        "D": weights.take("Ds").view(bias.shape),
    }  # fmt: skip
    for index, scan in enumerate(("coarse", "fine")):
        converted |= {f"{scan}.{name}": tensor[index : index + 1] for name, tensor in sets.items()}
    return converted


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(MODEL, hyper, DEFAULTS)
    backbone = HierarchicalBackbone(
        "multi_scale",
        dims=stage_dims(o.dims, len(o.depths)),
        depths=o.depths,
        mixer_options={
            "d_state": o.ssm_d_state, "expand": float(o.ssm_ratio), "dt_rank": o.ssm_dt_rank,
            "separate_norms": o.sep_norm, "squeeze": SQUEEZE if o.add_se else 0, "d_conv": o.ssm_conv,
            "conv_bias": o.ssm_conv_bias,
        },
        in_channels=o.in_chans,
        patch_size=o.patch_size,
        stem=STEMS[o.patchembed_version][0],
        stem_options={} if o.patch_norm else {"norm": "none"},
        downsampling=DOWNSAMPLINGS[o.downsample_version][0],
        mlp_ratio=FFN_EXPANSION,
        block_options={"mlp": "conv_before", "mlp_dropout": float(o.ffn_dropout)},
        drop_path=float(o.drop_path_rate),
    )  # fmt: skip
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = _read(MODEL, hyper, DEFAULTS)
    network = {"mlp.up": "convFFN.linear1", "mlp.conv2d": "convFFN.dwc", "mlp.down": "convFFN.linear2"}
    converted = convert_stages(
        weights, o.depths, stem=stem_modules(o), downsampling=downsampling_modules(weights, o.downsample_version),
        block={"mixer_norm": "norm", "mlp_norm": "norm2", **network}, mixer=lambda op, _: convert_mixer(op, {}),
    )  # fmt: skip
    for name in [name for name in converted if name.endswith(("mlp.up.weight", "mlp.down.weight"))]:
        converted[name] = converted[name].flatten(1)  # convolutions of one pixel there
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    depths = stage_depths(weights)
    if not depths or "layers.0.blocks.0.op.conv2d_b1.weight" not in weights:
        return {}
    dims = [len(weights.peek(f"layers.{stage}.blocks.0.norm.weight")) for stage in range(len(depths))]
    op, stem = weights.part("layers.0.blocks.0.op."), weights.peek("patch_embed.0.weight")
    place, overlapping = weights.part("layers.0.downsample."), "patch_embed.5.weight" in weights
    kernel = place.peek("1.weight").shape[-1] if "1.weight" in place else 0
    return {
        "depths": depths, "dims": dims, "ssm_d_state": op.peek("A_logs").shape[1],
        "patch_size": 4 if overlapping else stem.shape[-1], "patchembed_version": "v2" if overlapping else "v1",
        "ssm_conv": op.peek("conv2d.weight").shape[-1], "ssm_conv_bias": "conv2d.bias" in op,
        "patch_norm": "patch_embed.2.weight" in weights,
        "ssm_ratio": len(op.peek("conv2d.weight")) / dims[0], "in_chans": stem.shape[1],
        "add_se": "se.fc.0.weight" in op, "sep_norm": "out_norm1.weight" in op, "mlp_ratio": 0.0,
        "sscore_type": "multiscale_4scan_12", "downsample_version": {2: "v2", 3: "v3"}.get(kernel, "v1"),
        "num_classes": len(weights.peek("classifier.head.weight")),
    }  # fmt: skip


def _read(original: str, hyper: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    o = options(original, hyper, defaults, IGNORED)
    require_names(original, hyper, norm_layer=("ln", "layernorm"))
    require_checked(original, o, CHECKED)
    if original == MODEL:
        check_versions(original, {}, o)
    if 0 < o.ssm_rank_ratio < o.ssm_ratio:
        got = f"ssm_rank_ratio={o.ssm_rank_ratio}, ssm_ratio={o.ssm_ratio}"
        raise argument_error(f"from_original({original!r})", got, "no low rank", "these alone were checked")
    return o


add_importer(MIXER, build=build_mixer, convert=convert_mixer)
add_importer(MODEL, build=build, convert=convert, infer=infer)
