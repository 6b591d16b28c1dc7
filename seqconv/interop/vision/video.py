"""OpenGVLab/VideoMamba: classifiers of videos; OpenGVLab/video-mamba-suite: its two blocks.

Read in ``videomamba/video_sm/models/videomamba.py`` and ``mamba/mamba_ssm/modules/mamba_simple.py`` of VideoMamba at
f3427e42; ``mamba/mamba_ssm/modules/mamba_new.py`` and
``video-mamba-suite/egocentric-understanding/avion/models/timemamba.py`` of video-mamba-suite at ec9108b7. VideoMamba
without its reversed direction, layer scales and flash attention (whose parameters have other names) are unsupported.
All sizes of VideoMamba come from the shapes of the tensors.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqconv_kernels._core.errors import argument_error, unknown_name

from ...mixers.state_space.vim import Vim
from ...vision.video.backbone import VideoBackbone, VideoClassifier
from ...vision.video.space_time import SpaceTimeBlock
from ..importer import Weights, add_importer, options
from .parts import PAIR, count_parts, require_checked, scan_classifier
from .state_space.videomamba_images import mixer_hyper
from .state_space.vim import convert as convert_vim
from .state_space.vim import vim_options

MODEL, DECOMPOSED = "OpenGVLab/VideoMamba:VisionMamba", "OpenGVLab/video-mamba-suite:mamba_new.Mamba"
BLOCK = "OpenGVLab/video-mamba-suite:SpaceTimeBlock"
NORMS = ("norm_epsilon", "bimamba")
DEFAULTS: Mapping[str, Any] = {
    "img_size": 224, "patch_size": 16, "depth": 24, "embed_dim": 192, "channels": 3, "num_classes": 1000,
    "drop_path_rate": 0.1, "ssm_cfg": None, "norm_epsilon": 1e-5, "rms_norm": True, "bimamba": True,
    "kernel_size": 1, "num_frames": 8, "d_state": 16,
}  # fmt: skip
IGNORED = (
    "drop_rate", "initializer_cfg", "fused_add_norm", "residual_in_fp32", "fc_drop_rate", "device", "dtype",
    "use_checkpoint", "checkpoint_num",
)  # fmt: skip
MAMBA_DEFAULTS: Mapping[str, Any] = {
    "d_model": ..., "d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto", "dt_min": 0.001, "dt_max": 0.1,
    "dt_init": "random", "dt_scale": 1.0, "dt_init_floor": 1e-4, "conv_bias": True, "bias": False,
    "init_layer_scale": None,
}  # fmt: skip
MAMBA_IGNORED = ("length", "layer_idx", "use_fast_path", "device", "dtype")
BLOCK_DEFAULTS: Mapping[str, Any] = {
    "time_n": ..., "dim": ..., "num_heads": ..., "mlp_ratio": 4.0, "attn_drop": 0.0, "drop_path": 0.0,
    "attention_style": "frozen-in-time", "is_tanh_gating": False, "use_flash_attn": False, "drop": 0.0,
}  # fmt: skip
BLOCK_IGNORED = ("space_f", "qkv_bias", "qk_scale", "time_init", "use_checkpointing")
STYLES: Mapping[str, str] = {"frozen-in-time": "frozen", "frozen-joint": "joint", "timesformer-div": "divided"}
TIME_MIXER: Mapping[str, Any] = {"expand": 1, "halve": False}


def build(**hyper: Any) -> VideoClassifier:
    """The classifier with the options of the original."""
    o = _options(hyper)
    mixer = {name: value for name, value in vim_options(**mixer_hyper(o)).items() if name != "d_model"}
    backbone = VideoBackbone(
        "vim",
        d_model=o.embed_dim,
        depth=o.depth,
        mixer_options=mixer,
        image_size=o.img_size,
        patch_size=o.patch_size,
        num_frames=o.num_frames,
        tubelet_size=o.kernel_size,
        in_channels=o.channels,
        norm="rms" if o.rms_norm else "layer",
        drop_path=float(o.drop_path_rate),
    )
    return VideoClassifier(backbone, o.num_classes)


def convert(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the classifier; the table of places is split into those of the patches and the token's."""
    o = _options(hyper)
    places, norm_kinds = weights.take("pos_embed")[0], ("weight",) if o.rms_norm else PAIR
    grid = math.isqrt(len(places) - 1)
    converted = {
        "backbone.position_embedding": places[1:].unflatten(0, (grid, grid)),
        "backbone.cls_position_embedding": places[0],
        "backbone.cls_token": weights.take("cls_token")[0, 0],
        "backbone.time_embedding": weights.take("temporal_pos_embedding")[0],
    }
    mixer = partial(convert_vim, hyper=mixer_hyper(o))
    return converted | scan_classifier(weights, o.depth, mixer, norm_kinds=norm_kinds, head=bool(o.num_classes))


def infer(weights: Weights) -> dict[str, Any]:
    """All sizes, from the shapes of the tensors."""
    if "temporal_pos_embedding" not in weights or "patch_embed.proj.weight" not in weights:
        return {}
    depth = count_parts(weights, "layers.{}.norm.weight")
    width, channels, tubelet, patch, _ = weights.peek("patch_embed.proj.weight").shape
    return {
        "embed_dim": width, "channels": channels, "kernel_size": tubelet, "patch_size": patch, "depth": depth,
        "img_size": math.isqrt(weights.peek("pos_embed").shape[1] - 1) * patch,
        "num_frames": weights.peek("temporal_pos_embedding").shape[1] * tubelet,
        "num_classes": len(weights.peek("head.weight")) if "head.weight" in weights else 0,
        "d_state": weights.peek("layers.0.mixer.A_log").shape[1], "rms_norm": "norm_f.bias" not in weights,
    }  # fmt: skip


def _options(hyper: Mapping[str, Any]) -> Any:
    o = options(MODEL, hyper, DEFAULTS, IGNORED)
    require_checked(MODEL, o, {name: DEFAULTS[name] for name in NORMS})
    return o


def build_decomposed(**hyper: Any) -> Vim:
    """The mixer with the options of the original."""
    o = vars(options(DECOMPOSED, hyper, MAMBA_DEFAULTS, MAMBA_IGNORED))
    if o.pop("init_layer_scale") is not None:
        got = f"init_layer_scale={hyper['init_layer_scale']}"
        raise argument_error(f"from_original({DECOMPOSED!r})", got, "None", "leave it out")
    return Vim(version="decomposed", **o)


def convert_decomposed(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the mixer."""
    o = options(DECOMPOSED, hyper, MAMBA_DEFAULTS, MAMBA_IGNORED)
    kinds = ("weight", "bias") if o.bias else ("weight",)
    converted = {f"{n}.{kind}": weights.take(f"{n}.{kind}") for n in ("in_proj", "out_proj") for kind in kinds}
    converted["conv1d.0.weight"] = weights.take("conv1d.weight").squeeze(1)
    converted |= {"conv1d.0.bias": weights.take("conv1d.bias")} if o.conv_bias else {}
    converted |= {f"selection.0.{name}.weight": weights.take(f"{name}.weight") for name in ("x_proj", "dt_proj")}
    return converted | {
        "dt_bias": weights.take("dt_proj.bias")[None],
        "D": weights.take("D")[None],
        "A_log": weights.take("A_log")[None],
    }


def build_block(**hyper: Any) -> SpaceTimeBlock:
    """The block with the options of the original; it takes the tokens alone."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    if o.attention_style not in STYLES:
        raise unknown_name(f"from_original({BLOCK!r})", "attention_style", o.attention_style, STYLES)
    if o.use_flash_attn or o.drop:
        got, wanted = f"use_flash_attn={o.use_flash_attn}, drop={o.drop}", "use_flash_attn=False and drop=0.0"
        raise argument_error(f"from_original({BLOCK!r})", got, wanted, "these alone were checked")
    return SpaceTimeBlock(
        o.dim,
        places=o.time_n,
        num_heads=o.num_heads,
        mixer_options=TIME_MIXER,
        style=STYLES[o.attention_style],
        time_gate=o.is_tanh_gating,
        mlp_ratio=float(o.mlp_ratio),
        attention_across_batch=True,
        dropout=float(o.attn_drop),
        drop_path=float(o.drop_path),
    )


def convert_block(weights: Weights, hyper: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the block."""
    o = options(BLOCK, hyper, BLOCK_DEFAULTS, BLOCK_IGNORED)
    time = {"d_model": o.dim, "expand": 1, "bimamba_type": "v2", "if_divide_out": False}
    mixer = convert_vim(weights.part("time_mamba."), time)
    converted = {f"time.{name}": tensor for name, tensor in mixer.items()}
    converted |= {"time_gate": weights.take("alpha_timeattn")} if o.is_tanh_gating else {}
    names = {
        "space_norm.{}": "norm1.{}", "mlp_norm.{}": "norm2.{}", "time_norm.{}": "norm3.{}", "mlp.up.{}": "mlp.fc1.{}",
        "mlp.down.{}": "mlp.fc2.{}", "space.qkv_proj.{}": "attn.in_proj_{}", "space.o_proj.{}": "attn.out_proj.{}",
    }  # fmt: skip
    kinds = ("weight", "bias")
    return converted | {new.format(k): weights.take(old.format(k)) for new, old in names.items() for k in kinds}


add_importer(MODEL, build=build, convert=convert, infer=infer)
add_importer(DECOMPOSED, build=build_decomposed, convert=convert_decomposed)
add_importer(BLOCK, build=build_block, convert=convert_block)
