"""MzeroMiko/VMamba: whole classifiers.

Read in ``vmamba.py`` (VSSM) and ``classification/models/vmamba.py``, whose MLP may be gated (``gmlp``, which the first
does not read), at 2ed52ead: patch embedding v1 and v2, of 4 pixels, downsampling v1 to v3. All sizes come from the
shapes of the tensors, so that a published state dict (``checkpoint["model"]``) is read without hyper-parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.hierarchical import HierarchicalBackbone
from ...importer import Weights, add_importer, options
from ..parts import require_names, stage_dims
from .vmamba import convert as convert_ss2d
from .vmamba import ss2d_options

ORIGINAL = "MzeroMiko/VMamba:VSSM"
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 4,
    "in_chans": 3,
    "num_classes": 1000,
    "depths": (2, 2, 9, 2),
    "dims": (96, 192, 384, 768),
    "ssm_d_state": 16,
    "ssm_ratio": 2.0,
    "ssm_dt_rank": "auto",
    "ssm_conv": 3,
    "ssm_conv_bias": True,
    "forward_type": "v2",
    "mlp_ratio": 4.0,
    "downsample_version": "v2",
    "patchembed_version": "v1",
    "posembed": False,
    "imgsize": 224,
    "gmlp": False,
    "gated": None,
    "patch_norm": True,
    "mlp_act_layer": "gelu",
    "ssm_init": "v0",
    "drop_path_rate": 0.0,
}
IGNORED = (
    "image", "norm_layer", "ssm_act_layer", "ssm_drop_rate", "mlp_drop_rate", "use_checkpoint",
)  # fmt: skip
STRIDE = 4
"""Pixels of a patch of the second patch embedding."""
STEMS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "v1": ("patch", {"proj": "0", "norm": "2"}),
    "v2": ("conv", {"conv1": "0", "norm1": "2", "conv2": "5", "norm2": "7"}),
}
DOWNSAMPLINGS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "v1": ("merge", {"norm": "1", "proj": "2"}),
    "v2": ("conv2", {"conv": "1", "norm": "3"}),
    "v3": ("conv", {"conv": "1", "norm": "3"}),
}
"""Versions: seqconv's name, and the place of each module in the original's sequence."""

MLP = {"mlp_norm": "norm2", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
"""Modules of a block's MLP here and there."""

MLPS: Mapping[str, str] = {"gelu": "gelu", "relu": "relu", "silu": "silu"}
GATED_MLPS: Mapping[str, str] = {"gelu": "geglu", "relu": "reglu", "silu": "swiglu"}


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _options(hyper)
    mixer_options = {name: value for name, value in ss2d_options(**_ss2d(o)).items() if name != "d_model"}
    backbone = HierarchicalBackbone(
        "ss2d",
        dims=_dims(o),
        depths=o.depths,
        mixer_options=mixer_options,
        in_channels=o.in_chans,
        patch_size=o.patch_size,
        stem=STEMS[o.patchembed_version][0],
        stem_options={} if o.patch_norm else {"norm": "none"},
        downsampling=DOWNSAMPLINGS[o.downsample_version][0],
        mlp_ratio=float(o.mlp_ratio),
        block_options={"mlp": (GATED_MLPS if o.gmlp else MLPS)[o.mlp_act_layer.lower()]},
        position_sizes=[o.imgsize // o.patch_size] if o.posembed else None,
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = _options(hyper)
    dims, names = _dims(o), {"mixer_norm": "norm", **(MLP if o.mlp_ratio > 0 else {})}

    def mixer(op: Weights, stage: int) -> dict[str, Tensor]:
        return convert_ss2d(op, {**_ss2d(o), "d_model": dims[stage]})

    converted = convert_stages(
        weights, o.depths, stem=stem_modules(o), downsampling=downsampling_modules(weights, o.downsample_version),
        block=names, mixer=mixer,
    )  # fmt: skip
    if o.posembed:
        converted["backbone.positions.0"] = weights.take("pos_embed")[0].movedim(0, -1)
    for name in [name for name in converted if o.gmlp and ".mlp.up." in name]:
        value, gate = converted[name].chunk(2)
        converted[name] = torch.cat([gate, value])
    return converted


def stem_modules(o: Any) -> dict[str, str]:
    """Places of the modules of the stem, whose norms may be missing."""
    names = STEMS[o.patchembed_version][1]
    return {name: place for name, place in names.items() if o.patch_norm or "norm" not in name}


def downsampling_modules(weights: Weights, version: str) -> Mapping[str, str]:
    """Places of the modules of a downsampling; patch merging is a sequence or, in earlier code, a class."""
    if version == "v1" and "layers.0.downsample.reduction.weight" in weights:
        return {"norm": "norm", "proj": "reduction"}
    return DOWNSAMPLINGS[version][1]


def convert_stages(
    weights: Weights,
    depths: Sequence[int],
    *,
    stem: Mapping[str, str],
    downsampling: Mapping[str, str],
    block: Mapping[str, str],
    mixer: Callable[[Weights, int], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The state dict of a hierarchical classifier in the layout of VMamba, which others took over.

    Args:
        weights: of the original.
        depths: blocks of each stage.
        stem, downsampling, block: names here of modules of the stem, of a downsampling and of a block, and there.
        mixer: converts ``op`` of a block, from its tensors and its stage.
    """
    converted = take_modules(weights, "patch_embed", "backbone.stem", stem)
    converted |= take_modules(weights, "classifier", "backbone", {"norm": "norm"})
    converted |= take_modules(weights, "classifier", "", {"head": "head"})
    for stage, depth in enumerate(depths):
        if stage:
            source, target = f"layers.{stage - 1}.downsample", f"backbone.downsamplings.{stage - 1}"
            converted |= take_modules(weights, source, target, downsampling)
        for index in range(depth):
            source, target = f"layers.{stage}.blocks.{index}", f"backbone.stages.{stage}.{index}"
            converted |= take_modules(weights, source, target, block)
            mixed = mixer(weights.part(f"{source}.op."), stage)
            converted |= {f"{target}.mixer.{name}": tensor for name, tensor in mixed.items()}
    return converted


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    depths = stage_depths(weights)
    if not depths:
        return {}
    dims = [len(weights.peek(f"layers.{stage}.blocks.0.norm.weight")) for stage in range(len(depths))]
    first, op = "layers.0.blocks.0", weights.part("layers.0.blocks.0.op.")
    inner, d_state = len(op.peek("out_norm.weight")), op.peek("A_logs").shape[1]
    gated = len(op.peek("in_proj.weight")) == 2 * inner
    kind = "v0" if "x_proj_weight" in op else "v05"
    stem = weights.peek("patch_embed.0.weight")
    overlapping = "patch_embed.5.weight" in weights
    mlp = f"{first}.mlp.fc1.weight"
    place = weights.part("layers.0.downsample.")
    merging = "2.weight" in place or "reduction.weight" in place
    version = {2: "v2", 3: "v3"}[place.peek("1.weight").shape[-1]] if "1.weight" in place and not merging else "v1"
    norms = f"patch_embed.{STEMS['v2' if overlapping else 'v1'][1]['norm2' if overlapping else 'norm']}.weight"
    return {
        "depths": depths, "dims": dims, "ssm_d_state": d_state, "ssm_ratio": inner / dims[0],
        "forward_type": kind if gated else f"{kind}_noz",
        "ssm_conv": op.peek("conv2d.weight").shape[-1] if "conv2d.weight" in op else 0,
        "ssm_conv_bias": "conv2d.bias" in op,
        "mlp_ratio": weights.peek(mlp.replace("fc1", "fc2")).shape[1] / dims[0] if mlp in weights else 0.0,
        "patch_size": 4 if overlapping else stem.shape[-1], "in_chans": stem.shape[1],
        "patchembed_version": "v2" if overlapping else "v1", "downsample_version": version if len(depths) > 1 else "v3",
        "posembed": "pos_embed" in weights, "patch_norm": norms in weights,
        "gated": mlp in weights and len(weights.peek(mlp)) == 2 * weights.peek(mlp.replace("fc1", "fc2")).shape[1],
        "num_classes": len(weights.peek("classifier.head.weight")),
    }  # fmt: skip


def stage_depths(weights: Weights) -> list[int]:
    """The blocks of every stage."""
    depths: list[int] = []
    while f"layers.{len(depths)}.blocks.0.norm.weight" in weights:
        depth = 1
        while f"layers.{len(depths)}.blocks.{depth}.norm.weight" in weights:
            depth += 1
        depths.append(depth)
    return depths


def take_modules(weights: Weights, source: str, target: str, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and, where there are, biases of modules; linear layers of the channels-first layout have flat weights."""
    converted = {}
    for name, original in names.items():
        place, origin = (
            f"{outer}.{inner}" if outer else inner for outer, inner in ((target, name), (source, original))
        )
        converted[f"{place}.weight"] = weights.take(f"{origin}.weight")
        if f"{origin}.bias" in weights:
            converted[f"{place}.bias"] = weights.take(f"{origin}.bias")
    return converted


def _ss2d(o: Any) -> dict[str, Any]:
    """Hyper-parameters of the mixers; those of the first stage stand for all."""
    return {
        "d_model": _dims(o)[0], "d_state": o.ssm_d_state, "ssm_ratio": o.ssm_ratio, "dt_rank": o.ssm_dt_rank,
        "d_conv": o.ssm_conv, "conv_bias": o.ssm_conv_bias, "forward_type": o.forward_type, "initialize": o.ssm_init,
    }  # fmt: skip


def _dims(o: Any) -> list[int]:
    return stage_dims(o.dims, len(o.depths))


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    check_versions(ORIGINAL, hyper, o)
    o.gmlp = o.gmlp if o.gated is None else o.gated  # one of the two files does not read the option
    return o


def check_versions(original: str, hyper: Mapping[str, Any], o: Any, **known: tuple[str, ...]) -> None:
    """Raise for a norm, an activation or a version of a part that is not supported.

    Args:
        original: what is imported, for messages.
        hyper: its hyper-parameters as they were given.
        o: the same, with defaults.
        known: names of classes, as in :func:`~..parts.require_names`.

    Raises:
        ValueError: another one.
    """
    kinds = {"norm_layer": ("ln", "ln2d", "bn"), "ssm_act_layer": ("silu",), "mlp_act_layer": tuple(MLPS)}
    require_names(original, hyper, **(kinds | known))
    overlapping = o.patchembed_version == "v2"
    versions = o.patchembed_version in STEMS and o.downsample_version in DOWNSAMPLINGS
    if not versions or (overlapping and o.patch_size != STRIDE):
        got = f"patchembed_version={o.patchembed_version!r}, downsample_version={o.downsample_version!r}"
        got += f", patch_size={o.patch_size}"
        wanted = f"patch embedding v1 or, with patches of {STRIDE} pixels, v2; downsampling v1, v2 or v3"
        raise argument_error(f"from_original({original!r})", got, wanted, "these alone were checked")


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
