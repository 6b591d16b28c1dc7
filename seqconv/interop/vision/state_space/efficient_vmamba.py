"""TerryPei/EfficientVMamba: the atrous scan, and whole classifiers.

Read in ``classification/lib/models/mamba/efficient_mamba.py`` (SS2D, VSSBlock, EfficientVSSM), ``efficient_scan.py``
and ``operations.py`` at 0bc5ee28. EfficientVSSM hands ``d_state`` and ``dt_rank`` on under names that its layers
ignore: the state size is 16 and the rank automatic whatever is asked.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.hierarchical import HierarchicalBackbone
from ....vision.mixers.atrous import Atrous2d
from ...importer import Weights, add_importer, options
from ..parts import require_checked, require_names, stage_dims
from .vmamba_models import take_modules

MIXER, MODEL = "TerryPei/EfficientVMamba:SS2D", "TerryPei/EfficientVMamba:EfficientVSSM"
MIXER_DEFAULTS: Mapping[str, Any] = {
    "d_model": 96, "d_state": 16, "ssm_ratio": 2.0, "ssm_rank_ratio": 2.0, "dt_rank": "auto", "d_conv": 3,
    "conv_bias": True, "bias": False, "forward_type": "v2", "step_size": 2, "patch_norm": True,
}  # fmt: skip
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 4, "in_chans": 3, "num_classes": 1000, "depths": (2, 2, 9, 2), "dims": (96, 192, 384, 768),
    "ssm_ratio": 2.0, "mlp_ratio": 4.0, "downsample_version": "v2", "drop_path_rate": 0.1, "step_size": 2,
    "patch_norm": True,
}  # fmt: skip
IGNORED = (
    "image", "d_state", "dt_rank", "attn_drop_rate", "shared_ssm", "softmax_version", "drop_rate",
    "norm_layer", "use_checkpoint", "window_size",
)  # fmt: skip
MIXER_IGNORED = ("dropout", "simple_init", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor")
CHECKED: Mapping[str, Any] = {
    "forward_type": ("v2", "v1"), "step_size": 2,
}  # fmt: skip
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SCANNED_STAGES = 2
INVERTED = {
    "up": "conv_pw.0", "up_norm": "conv_pw.1", "conv2d": "conv_dw.0", "conv_norm": "conv_dw.1",
    "squeeze.down": "se.conv_reduce", "squeeze.up": "se.conv_expand", "down": "conv_pw2.0", "down_norm": "conv_pw2.1",
}  # fmt: skip


def build_mixer(**hyper: Any) -> Atrous2d:
    """The mixer with the options of the original."""
    o = _read(MIXER, hyper, MIXER_DEFAULTS)
    sizes = {"d_state": o.d_state, "d_conv": o.d_conv, "expand": float(o.ssm_ratio), "dt_rank": o.dt_rank}
    return Atrous2d(o.d_model, conv_bias=o.conv_bias, bias=o.bias, **sizes)


def convert_mixer(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    names = {"conv2d": "conv2d", "in_proj": "in_proj", "out_proj": "out_proj", "norm": "out_norm"}
    bias = weights.take("dt_projs_bias")
    return take_modules(weights, "", "", names) | {
        "scan.x_proj.weight": weights.take("x_proj_weight"), "scan.dt_proj.weight": weights.take("dt_projs_weight"),
        "scan.dt_bias": bias, "scan.A_log": weights.take("A_logs").unflatten(0, bias.shape),
        "scan.D": weights.take("Ds").view(bias.shape),
    }  # fmt: skip


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(MODEL, hyper, DEFAULTS)
    kinds = ["mixer" if stage < SCANNED_STAGES else "inverted_residual" for stage in range(len(o.depths))]
    backbone = HierarchicalBackbone(
        "efficient_vmamba",
        dims=stage_dims(o.dims, len(o.depths)),
        depths=o.depths,
        mixer_options={"expand": float(o.ssm_ratio)},
        stage_blocks=kinds,
        in_channels=o.in_chans,
        patch_size=o.patch_size,
        stem_options={} if o.patch_norm else {"norm": "none"},
        downsampling="conv2" if o.downsample_version == "v2" else "merge",
        mlp_ratio=float(o.mlp_ratio),
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = _read(MODEL, hyper, DEFAULTS)
    converted = take_modules(
        weights, "patch_embed", "backbone.stem", {"proj": "0", **({"norm": "2"} if o.patch_norm else {})}
    )
    second = o.downsample_version == "v2"
    names = {"conv": "1", "norm": "3"} if second else {"norm": "norm", "proj": "reduction"}
    converted |= take_modules(weights, "classifier", "backbone", {"norm": "norm"})
    converted |= take_modules(weights, "classifier", "", {"head": "head"})
    for stage, depth in enumerate(o.depths):
        scanned = stage < SCANNED_STAGES
        if stage + 1 < len(o.depths):
            source = f"layers.{stage}." + ("downsample" if scanned else f"{depth + 2}")
            converted |= take_modules(weights, source, f"backbone.downsamplings.{stage}", names)
        for index in range(depth):
            source = f"layers.{stage}." + (f"blocks.{index}." if scanned else f"{index + 1}.")
            part, target = weights.part(source), f"backbone.stages.{stage}.{index}"
            found = _scanned_block(part, o) if scanned else _with_norms(part, INVERTED)
            converted |= {f"{target}.{name}": tensor for name, tensor in found.items()}
    return converted


def _scanned_block(weights: Weights, o: Any) -> dict[str, Tensor]:
    network = {"mlp_norm": "norm2", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"} if o.mlp_ratio else {}
    converted = take_modules(weights, "", "", {"mixer_norm": "norm", **network})
    branch = {"conv2d": "conv_branch.0", "conv_norm": "conv_branch.1", "conv_proj": "conv_branch.3"}
    gate = {"gate.norm": "se.norm", "gate.down": "se.global_reduce", "gate.up": "se.channel_select"}
    mixer = _with_norms(weights, branch | gate)
    mixer["conv_proj.weight"] = mixer["conv_proj.weight"].flatten(1)
    mixer |= {f"atrous.{name}": tensor for name, tensor in convert_mixer(weights.part("op."), {}).items()}
    return converted | {f"mixer.{name}": tensor for name, tensor in mixer.items()}


def _with_norms(weights: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Modules, batch norms among them; 1 by 1 convolutions of squeeze and excitation become linear layers."""
    converted = take_modules(weights, "", "", names)
    for name, source in names.items():
        if f"{source}.running_mean" in weights:
            converted |= {f"{name}.{kind}": weights.take(f"{source}.{kind}") for kind in NORM}
        if name.startswith("squeeze."):
            converted[f"{name}.weight"] = converted[f"{name}.weight"].flatten(1)
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    if "layers.0.blocks.0.conv_branch.0.weight" not in weights:
        return {}
    depths, dims = list[int](), list[int]()
    patterns = ["layers.{0}.blocks.{1}.norm.weight"] * SCANNED_STAGES + ["layers.{0}.{2}.conv_pw2.1.weight"] * 9
    for stage, pattern in enumerate(patterns):
        depth = 0
        while pattern.format(stage, depth, depth + 1) in weights:
            dim = len(weights.peek(pattern.format(stage, depth, depth + 1)))
            depth += 1
        if depth == 0:
            break
        depths.append(depth)
        dims.append(dim)
    stem, mlp = weights.peek("patch_embed.0.weight"), "layers.0.blocks.0.mlp.fc1.weight"
    return {
        "depths": depths, "dims": dims, "patch_size": stem.shape[-1], "in_chans": stem.shape[1],
        "patch_norm": "patch_embed.2.weight" in weights,
        "downsample_version": "v2" if "layers.0.downsample.1.weight" in weights else "v1",
        "ssm_ratio": len(weights.peek("layers.0.blocks.0.op.out_norm.weight")) / dims[0],
        "mlp_ratio": len(weights.peek(mlp)) / dims[0] if mlp in weights else 0.0,
        "num_classes": len(weights.peek("classifier.head.weight")),
    }  # fmt: skip


def _read(original: str, hyper: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    o = options(original, hyper, defaults, IGNORED if original == MODEL else MIXER_IGNORED)
    require_names(original, hyper, norm_layer=("layernorm",))
    require_checked(original, o, CHECKED)
    if original == MIXER and 0 < o.ssm_rank_ratio < o.ssm_ratio:
        got = f"ssm_rank_ratio={o.ssm_rank_ratio}, ssm_ratio={o.ssm_ratio}"
        raise argument_error(f"from_original({original!r})", got, "no low rank", "this alone was checked")
    if original == MIXER and o.d_conv < 2:
        got = f"d_conv={o.d_conv}"
        raise argument_error(f"from_original({original!r})", got, "a convolution", "this alone was checked")
    return o


add_importer(MIXER, build=build_mixer, convert=convert_mixer)
add_importer(MODEL, build=build, convert=convert, infer=infer)
