"""hustvl/ViG: hierarchical classifiers.

Read in ``classification/models/vig_h.py`` (HierViG, GLA2D) at dfb9d321: VMamba's stages, stems and downsampling with
gated linear attention. Its gated MLP is SwiGLU without biases, whose hidden width is
8/3 of the width, rounded up to a multiple of 32, whatever ``mlp_ratio`` is.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ....vision.backbones.backbone import ImageClassifier
from ....vision.backbones.hierarchical import HierarchicalBackbone
from ...importer import Weights, add_importer, options
from ..parts import stage_dims
from ..state_space.vmamba_models import (
    DOWNSAMPLINGS,
    MLP,
    MLPS,
    STEMS,
    check_versions,
    convert_stages,
    downsampling_modules,
    stage_depths,
    stem_modules,
)
from .vig import SILU, TRAINING_SCALE, convert_mixer

ORIGINAL = "hustvl/ViG:HierViG"
DEFAULTS: Mapping[str, Any] = {
    "patch_size": 4, "in_chans": 3, "num_classes": 1000, "depths": (2, 2, 9, 2), "dims": (96, 192, 384, 768),
    "num_heads": (3, 6, 12, 24), "expand_k": 0.5, "expand_v": 1.0, "use_out_act": False, "use_act_in_conv": True,
    "rope_mode": "none", "mlp_ratio": 4.0, "gmlp": False, "downsample_version": "v3", "patchembed_version": "v2",
    "drop_path_rate": 0.1, "patch_norm": True, "mlp_act_layer": "gelu",
}  # fmt: skip
GATED_MULTIPLE = 32
IGNORED = (
    "image", "attn_models", "hidden_act", "norm_layer", "mlp_drop_rate", "use_checkpoint",
)  # fmt: skip


def build(**hyper: Any) -> ImageClassifier:
    """The classifier with the options of the original."""
    o = _options(hyper)
    mixer_options = {
        "expand_k": float(o.expand_k), "conv_activation": o.use_act_in_conv, "out_activation": o.use_out_act,
        "direction_scale": TRAINING_SCALE,
    }  # fmt: skip
    backbone = HierarchicalBackbone(
        "vig",
        dims=o.dims,
        depths=o.depths,
        mixer_options=mixer_options,
        stage_options=[{"num_heads": heads} for heads in o.num_heads],
        in_channels=o.in_chans,
        patch_size=o.patch_size,
        stem=STEMS[o.patchembed_version][0],
        stem_options={} if o.patch_norm else {"norm": "none"},
        downsampling=DOWNSAMPLINGS[o.downsample_version][0],
        mlp_ratio=[_gated_ratio(dim) if o.gmlp else float(o.mlp_ratio) for dim in o.dims],
        block_options={"mlp": "swiglu", "mlp_bias": False} if o.gmlp else {"mlp": MLPS[o.mlp_act_layer.lower()]},
        drop_path=float(o.drop_path_rate),
    )
    return ImageClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier from that of the original."""
    o = _options(hyper)
    return convert_stages(
        weights, o.depths, stem=stem_modules(o), downsampling=downsampling_modules(weights, o.downsample_version),
        block={"mixer_norm": "norm", **MLP}, mixer=lambda op, _: convert_mixer(op, {}),
    )  # fmt: skip


def infer(weights: Weights) -> dict[str, Any]:
    """Sizes, from the shapes of the tensors; whether the convolution is activated is not told by them."""
    depths = stage_depths(weights)
    if not depths:
        return {}
    first = [weights.part(f"layers.{stage}.blocks.0.") for stage in range(len(depths))]
    dims = [len(block.peek("norm.weight")) for block in first]
    heads = [dim // len(b.peek("op.g_norm.weight")) for b, dim in zip(first, dims, strict=True)]
    keys = (len(first[0].peek("op.qkv_proj.weight")) - dims[0]) // 2
    up, down = (first[0].peek(f"mlp.{name}.weight") for name in ("fc1", "fc2"))
    return {
        "depths": depths, "dims": dims, "num_heads": heads, "expand_k": keys / dims[0],
        "in_chans": weights.peek("patch_embed.0.weight").shape[1], "mlp_ratio": down.shape[1] / dims[0],
        "gmlp": len(up) == 2 * down.shape[1], "num_classes": len(weights.peek("classifier.head.weight")),
    }  # fmt: skip


def _gated_ratio(dim: int) -> float:
    """Hidden width of the gated MLP over the width."""
    return GATED_MULTIPLE * -(-int(dim * 8 / 3) // GATED_MULTIPLE) / dim


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(ORIGINAL, hyper, DEFAULTS, IGNORED)
    check_versions(ORIGINAL, hyper, o, norm_layer=("ln", "ln2d"), hidden_act=SILU)
    if o.rope_mode != "none" or o.expand_v != 1:
        got = f"rope_mode={o.rope_mode!r}, expand_v={o.expand_v}"
        wanted = "no rotary positions, values of the model's width"
        raise argument_error(f"from_original({ORIGINAL!r})", got, wanted, "these alone were checked")
    o.dims = stage_dims(o.dims, len(o.depths))
    return o


add_importer(ORIGINAL, build=build, convert=convert, infer=infer)
