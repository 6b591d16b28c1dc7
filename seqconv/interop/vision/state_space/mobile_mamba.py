"""lewandofskee/MobileMamba: wavelet scan, mixer, block and whole classifiers.

Read in ``model/mobilemamba/mobilemamba.py`` and ``model/lib_mamba/vmambanew.py`` (SS2D, ``v052d`` with two groups) at
0980f48a. Without Triton the original adds up the forward scans of all images of a batch; they stay apart here, as with
Triton. Of a model with a second head for distillation the mean of both is given, in training too.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....vision.backbones.backbone import DistilledClassifier, ImageClassifier
from ....vision.backbones.hierarchical import HierarchicalBackbone
from ....vision.mixers.mobile_mamba import MobileBlock, MobileMamba2d, WaveletScan
from ...importer import Weights, add_importer, options
from ..parts import require_checked
from .vmamba import convert as convert_ss2d
from .vmamba_models import take_modules

OWNER = "lewandofskee/MobileMamba"
WAVELET, MIXER, BLOCK, MODEL = (
    f"{OWNER}:{name}" for name in ("MBWTConv2d", "MobileMambaModule", "MobileMambaBlock", "MobileMamba")
)
WAVELET_DEFAULTS: Mapping[str, Any] = {
    "in_channels": ..., "out_channels": None, "kernel_size": 5, "stride": 1, "wt_levels": 1, "wt_type": "db1",
    "ssm_ratio": 1, "forward_type": "v052d",
}  # fmt: skip
MIXER_DEFAULTS: Mapping[str, Any] = {
    "dim": ..., "global_ratio": 0.25, "local_ratio": 0.25, "kernels": 3, "ssm_ratio": 1, "forward_type": "v052d",
}  # fmt: skip
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "ed": ..., "type": "s", "has_skip": True, "drop_path": 0.0,
    **{name: value for name, value in MIXER_DEFAULTS.items() if name not in ("dim", "kernels")}, "kernels": 5,
}  # fmt: skip
DOWN_OPS = [["subsample", 2], ["subsample", 2], [""]]
DEFAULTS: Mapping[str, Any] = {
    "in_chans": 3, "num_classes": 1000, "stages": ("s", "s", "s"), "embed_dim": (192, 384, 448), "depth": (1, 2, 2),
    "global_ratio": (0.8, 0.7, 0.6), "local_ratio": (0.2, 0.2, 0.3), "kernels": (7, 5, 3), "distillation": False,
    "drop_path": 0.0, "ssm_ratio": 1, "forward_type": "v052d", "down_ops": DOWN_OPS,
}  # fmt: skip
IGNORED = ("image", "img_size", "bias")
CHECKED: Mapping[str, Any] = {
    "stride": 1, "wt_levels": 1, "wt_type": "db1", "forward_type": "v052d", "type": "s", "has_skip": True,
    "stages": ["s", "s", "s"], "down_ops": DOWN_OPS,
}  # fmt: skip
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
STAGES = 3


def build_wavelet(**hyper: Any) -> WaveletScan:
    """The wavelet scan with the options of the original."""
    o = _read(WAVELET, hyper, WAVELET_DEFAULTS)
    return WaveletScan(o.in_channels, d_conv=o.kernel_size, expand=float(o.ssm_ratio))


def convert_wavelet(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the wavelet scan; the filters are the same for all channels."""
    part = weights.part("global_atten.")
    inner = part.peek("conv2d.weight").shape[0]
    hyper = {"d_model": 1, "d_state": 1, "ssm_ratio": float(inner), "forward_type": "v05"}
    found = convert_ss2d(part, hyper, projection=".c.weight")
    for name, source in (("in_proj_norm", "in_proj.bn"), ("out_proj_norm", "out_proj.bn")):
        found |= {f"{name}.{kind}": part.take(f"{source}.{kind}") for kind in NORM}
    return {f"ss2d.{name}": tensor for name, tensor in found.items()} | {
        "scale": weights.take("base_scale.weight").flatten(),
        "bands_conv.weight": weights.take("wavelet_convs.0.weight"),
        "bands_scale": weights.take("wavelet_scale.0.weight").flatten(),
        "analysis": weights.take("wt_filter")[:4, 0].detach(),
        "synthesis": weights.take("iwt_filter")[:4, 0].detach(),
    }


def build_mixer(**hyper: Any) -> MobileMamba2d:
    """The mixer with the options of the original."""
    o = _read(MIXER, hyper, MIXER_DEFAULTS)
    scanned, local = float(o.global_ratio), float(o.local_ratio)
    return MobileMamba2d(o.dim, global_ratio=scanned, local_ratio=local, d_conv=o.kernels, expand=float(o.ssm_ratio))


def convert_mixer(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    converted = _normed(weights, {"out_proj": "proj.1"})
    if "global_op.wt_filter" in weights:
        wavelet = convert_wavelet(weights.part("global_op."), {})
        converted |= {f"scan.{name}": tensor for name, tensor in wavelet.items()}
    if "local_op.bn1.weight" in weights:
        names = {"local.conv2d": "local_op.dwconv3x3", "local.scale": "local_op.dwconv1x1"}
        converted |= take_modules(weights, "", "", names)
        for name, source in (("local.norm", "local_op.bn1"), ("local.out_norm", "local_op.bn2")):
            converted |= {f"{name}.{kind}": weights.take(f"{source}.{kind}") for kind in NORM}
    return converted


def build_block(**hyper: Any) -> MobileBlock:
    """A block with the options of the original."""
    o = _read(BLOCK, hyper, BLOCK_DEFAULTS)
    shared = ("global_ratio", "local_ratio", "kernels", "ssm_ratio")
    return MobileBlock(build_mixer(dim=o.ed, **{name: getattr(o, name) for name in shared}), drop_path=o.drop_path)


def convert_block(weights: Weights, _: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a block."""
    converted = _local(weights, "first", "dw0.m", "ffn0.m") | _local(weights, "second", "dw1.m", "ffn1.m")
    mixer = convert_mixer(weights.part("mixer.m.attn."), {})
    return converted | {f"mixer.{name}": tensor for name, tensor in mixer.items()}


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _read(MODEL, hyper, DEFAULTS)
    parts = zip(o.global_ratio, o.local_ratio, o.kernels, strict=True)
    backbone = HierarchicalBackbone(
        "mobile_mamba",
        dims=o.embed_dim,
        depths=o.depth,
        mixer_options={"expand": float(o.ssm_ratio)},
        stage_options=[
            {"global_ratio": float(scanned), "local_ratio": float(local), "d_conv": size}
            for scanned, local, size in parts
        ],
        stage_blocks=["mobile"] * STAGES,
        in_channels=o.in_chans,
        patch_size=16,
        stem="mobile",
        downsampling="mobile",
        final_norm="none" if o.distillation or not o.num_classes else "batch",
        initialisation="none",
        drop_path=float(o.drop_path),
    )
    return (DistilledClassifier if o.distillation and o.num_classes else ImageClassifier)(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = _read(MODEL, hyper, DEFAULTS)
    norm = "norm" if o.distillation else "backbone.pooled_norm"
    heads = {"head": ("head", norm)} | ({"distilled_head": ("head_dist", "distilled_norm")} if o.distillation else {})
    converted = dict[str, Tensor]()
    for name, (source, norm) in heads.items() if o.num_classes else ():
        converted |= take_modules(weights, "", "", {name: f"{source}.l"})
        converted |= {f"{norm}.{kind}": weights.take(f"{source}.bn.{kind}") for kind in NORM}
    converted |= _normed(weights, {f"backbone.stem.layers.{i}": f"patch_embed.{2 * i}" for i in range(4)})
    for stage, depth in enumerate(o.depth):
        part, start = weights.part(f"blocks{stage + 1}."), 3 if stage else 0
        if stage:
            target = f"backbone.downsamplings.{stage - 1}"
            found = _local(part, "first", "0.0.m", "0.1.m") | _local(part, "second", "2.0.m", "2.1.m")
            found |= _normed(part, {"up": "1.conv1", "conv": "1.conv2", "down": "1.conv3"})
            squeeze = take_modules(part, "", "", {"squeeze.down": "1.se.fc1", "squeeze.up": "1.se.fc2"})
            found |= {name: t.flatten(1) if name.endswith("weight") else t for name, t in squeeze.items()}
            converted |= {f"{target}.{name}": tensor for name, tensor in found.items()}
        for index in range(depth):
            block = convert_block(part.part(f"{start + index}."), {})
            converted |= {f"backbone.stages.{stage}.{index}.{name}": tensor for name, tensor in block.items()}
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """Sizes, from the shapes of the tensors; the parts of the channels are those of all published models."""
    if "patch_embed.0.c.weight" not in weights or "blocks1.0.dw0.m.c.weight" not in weights:
        return {}
    depths = []
    for stage in range(STAGES):
        start = depth = 3 if stage else 0
        while f"blocks{stage + 1}.{depth}.dw0.m.c.weight" in weights:
            depth += 1
        depths.append(depth - start)
    first = [weights.part(f"blocks{stage + 1}.{3 if stage else 0}.") for stage in range(STAGES)]
    mixer = first[0].part("mixer.m.attn.global_op.")
    return {
        "depth": depths, "embed_dim": [len(b.peek("dw0.m.c.weight")) for b in first],
        "in_chans": weights.peek("patch_embed.0.c.weight").shape[1], "distillation": "head_dist.l.weight" in weights,
        "num_classes": len(weights.peek("head.l.weight")) if "head.l.weight" in weights else 0,
        "kernels": [b.peek("mixer.m.attn.global_op.wavelet_convs.0.weight").shape[-1] for b in first],
        "ssm_ratio": len(mixer.peek("global_atten.conv2d.weight")) / mixer.peek("base_scale.weight").numel(),
    }  # fmt: skip


def _local(weights: Weights, target: str, conv: str, mlp: str) -> dict[str, Tensor]:
    names = {f"{target}.conv": conv, f"{target}.mlp.up": f"{mlp}.pw1", f"{target}.mlp.down": f"{mlp}.pw2"}
    return _normed(weights, names)


def _normed(weights: Weights, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Convolutions with batch norms."""
    converted = {}
    for name, source in names.items():
        converted[f"{name}.conv.weight"] = weights.take(f"{source}.c.weight")
        converted |= {f"{name}.norm.{kind}": weights.take(f"{source}.bn.{kind}") for kind in NORM}
    return converted


def _read(original: str, hyper: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    o = options(original, hyper, defaults, IGNORED)
    require_checked(original, o, CHECKED)
    return o


BUILDERS: Mapping[str, tuple[Any, Any]] = {
    WAVELET: (build_wavelet, convert_wavelet), MIXER: (build_mixer, convert_mixer), BLOCK: (build_block, convert_block),
}  # fmt: skip
for _original, (_build, _convert) in BUILDERS.items():
    add_importer(_original, build=_build, convert=_convert)
add_importer(MODEL, build=build, convert=convert, infer=infer)
