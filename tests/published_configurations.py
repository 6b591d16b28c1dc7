"""Options of all published models of the zoo, as the constructors and configurations of the repositories set them.

Those that are the defaults of the reader may be left out. The docstrings of the families say in which files they are.
"""

from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]


def doubled(width: int) -> list[int]:
    """Widths of four stages."""
    return [width * 2**stage for stage in range(4)]


def sizes(common: Options, names: Mapping[str, Options]) -> dict[str, Options]:
    """Options that the models of a family share, with their own."""
    return {name: {**common, **own} for name, own in names.items()}


def staged(common: Options, names: Mapping[str, tuple[list[int], int]]) -> dict[str, Options]:
    """The same of depths, and the width of the first stage."""
    return {name: {**common, "depths": depths, "dims": doubled(dim)} for name, (depths, dim) in names.items()}


SMALL = {"ssm_d_state": 1, "ssm_conv_bias": False, "forward_type": "v05_noz", "mlp_ratio": 4.0}
SECOND = {**SMALL, "downsample_version": "v3", "patchembed_version": "v2", "norm_layer": "ln2d"}
ONE, TWO = {**SECOND, "ssm_ratio": 1.0}, {**SECOND, "ssm_ratio": 2.0}
# EfficientVMamba's small model has the width of its training log, not that of its configuration (96).
OLD = {"mlp_ratio": 0.0, "downsample_version": "v1"}
V0 = {**OLD, "ssm_d_state": 16, "forward_type": "v0", "patchembed_version": "v1"}
MULTI = {**OLD, "ssm_d_state": 1, "ssm_ratio": 2.0, "patchembed_version": "v1", "convFFN": True, "add_se": True}
MULTI |= {"sscore_type": "multiscale_4scan_12"}
VMAMBA = {
    **staged(ONE, {"vmamba_tiny": ([2, 2, 8, 2], 96), "vmamba_small_s1l20": ([2, 2, 20, 2], 96)}),
    **staged(ONE, {"vmamba_base_s1l20": ([2, 2, 20, 2], 128)}),
    **staged(TWO, {"vmamba_tiny_s2l5": ([2, 2, 5, 2], 96), "vmamba_small": ([2, 2, 15, 2], 96)}),
    **staged(TWO, {"vmamba_base": ([2, 2, 15, 2], 128)}),
    **staged(V0, {"vmamba_v0_tiny": ([2, 2, 9, 2], 96), "vmamba_v0_small": ([2, 2, 27, 2], 96)}),
    **staged(V0, {"vmamba_v0_base": ([2, 2, 27, 2], 128)}),
    **staged(MULTI, {"msvmamba_nano": ([1, 2, 5, 2], 48), "msvmamba_micro": ([1, 2, 5, 2], 64)}),
    **staged(MULTI, {"msvmamba_tiny": ([1, 2, 9, 2], 96)}),
    **staged(OLD, {"efficient_vmamba_tiny": ([2, 2, 4, 2], 48), "efficient_vmamba_small": ([2, 2, 4, 2], 64)}),
    **staged(OLD, {"efficient_vmamba_base": ([2, 2, 9, 2], 96)}),
}

VIDEO_SIZES = {"tiny": (192, 24), "small": (384, 24), "middle": (576, 32)}
VIDEO_TASKS = {
    "": (8, 224, 400), "_f16": (16, 224, 400), "_f32": (32, 224, 400), "_f64": (64, 224, 400),
    "_f64_384": (64, 384, 400), "_ssv2": (8, 224, 174), "_ssv2_f16": (16, 224, 174), "_ssv2_f16_288": (16, 288, 174),
    "_breakfast_f32": (32, 224, 10), "_breakfast_f64": (64, 224, 10), "_coin_f32": (32, 224, 180),
    "_coin_f64": (64, 224, 180),
}  # fmt: skip
"""Frames, pixels and classes."""
VIDEOS = {
    f"videomamba_{size}{task}": {
        "embed_dim": width, "depth": depth, "num_frames": frames, "img_size": pixels, "num_classes": classes,
    }
    for size, (width, depth) in VIDEO_SIZES.items()
    for task, (frames, pixels, classes) in VIDEO_TASKS.items()
}  # fmt: skip
IMAGES = {
    f"videomamba_image_{size}{pixels}": {"embed_dim": width, "depth": depth, "img_size": int(pixels[1:] or 224)}
    for size, (width, depth) in {**VIDEO_SIZES, "base": (768, 24)}.items()
    for pixels in (("",) if size == "base" else ("", "_448", "_576"))
}

VIM = sizes(
    {"depth": 24},
    {
        "vim_tiny": {"embed_dim": 192, "if_divide_out": True},
        "vim_tiny_plus": {"embed_dim": 192, "stride": 8, "if_divide_out": True},
        "vim_small": {"embed_dim": 384, "if_divide_out": True},
        "vim_small_plus": {"embed_dim": 384, "stride": 8, "if_divide_out": True},
        "vim_base": {"embed_dim": 768, "if_devide_out": True},
        "audio_mamba_small": {"embed_dim": 384, "bimamba_type": "v2"},
        "audio_mamba_base": {"embed_dim": 768, "bimamba_type": "v1"},
    },
)
PLAIN_MAMBA = {
    "plain_mamba_l1": {"embed_dims": 192, "num_layers": 24, "num_convs_patch_embed": 1, "layers_with_dwconv": [0]},
    "plain_mamba_l2": {"embed_dims": 384, "num_layers": 24, "num_convs_patch_embed": 2},
    "plain_mamba_l3": {"embed_dims": 448, "num_layers": 36, "num_convs_patch_embed": 2},
}
MOBILE_B = {"embed_dim": [200, 376, 448], "depth": [2, 3, 2]}
MOBILE = sizes(
    {"ssm_ratio": 2, "depth": [1, 2, 2], "global_ratio": [0.8, 0.7, 0.6], "local_ratio": [0.2, 0.2, 0.3]},
    {
        "mobile_mamba_t2": {"embed_dim": [144, 272, 368]},
        "mobile_mamba_t4": {"embed_dim": [176, 368, 448]},
        "mobile_mamba_s6": {"embed_dim": [192, 384, 448]},
        "mobile_mamba_b1": MOBILE_B,
        "mobile_mamba_b2": MOBILE_B,
        "mobile_mamba_b4": MOBILE_B,
    },
)

SMALLER = {"embed_dims": [64, 128, 320, 512], "num_heads": [1, 2, 5, 8], "mlp_ratios": [8, 8, 4, 4], "qkv_bias": True}
DEPTHS = [[2, 2, 2, 2], [2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 18, 3], [3, 8, 27, 3], [3, 6, 40, 3]]
FIRST, LAST = {"embed_dims": [32, 64, 160, 256]}, {"mlp_ratios": [4, 4, 4, 4]}
PVT_OWN = [FIRST, {}, {}, {}, {}, LAST]
LINEAR = {**SMALLER, "la_sr_ratios": "1111", "attn_type": "LLLL", "sr_ratios": [8, 4, 2, 1]}
TWINS = {"embed_dims": [64, 128, 256, 512], "num_heads": [2, 4, 8, 16], "mlp_ratios": [4] * 4, "qkv_bias": True}
TWINS |= {"depths": [2, 2, 10, 4], "sr_ratios": [8, 4, 2, 1], "wss": [7] * 4}
PVT = {
    **{f"pvt_v2_b{i}": {**SMALLER, "depths": DEPTHS[i], **own} for i, own in enumerate(PVT_OWN)},
    **{f"slab_pvt_v2_b{i}": {**LINEAR, "depths": DEPTHS[i], **own} for i, own in enumerate(PVT_OWN)},
    **{
        f"pvtv2_b{i}_ecoformer": {**SMALLER, "nbits": 16, "m": 25, "depths": DEPTHS[i], **own}
        for i, own in enumerate(PVT_OWN[:5])
    },
    **{
        name.format(size): {**LINEAR, "patch_size": 4, "depths": depths, "attn_type": kinds}
        for name, kinds in (("slab_pvt_{}", "LLLL"), ("pvt_{}_prepbn", "SSSS"))
        for size, depths in (("tiny", [2, 2, 2, 2]), ("small", [3, 4, 6, 3]), ("medium", [3, 4, 18, 3]))
    },
    "twins_pcpvt_small": {**SMALLER, "depths": [3, 4, 6, 3]},
    "twins_pcpvt_base": {**SMALLER, "depths": [3, 4, 18, 3]},
    "twins_pcpvt_large": {**SMALLER, "depths": [3, 8, 27, 3]},
    "twins_svt_small": TWINS,
    "twins_svt_base": {**TWINS, "embed_dims": doubled(96), "num_heads": doubled(3), "depths": [2, 2, 18, 2]},
    "twins_svt_large": {**TWINS, "embed_dims": doubled(128), "num_heads": doubled(4), "depths": [2, 2, 18, 2]},
    "twins_svt_s_ecoformer": {**TWINS, "block_cls": "EcoBlock"},
}
SWIN = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
LLSS = {**SWIN, "window_size": 56, "attn_type": "LLSS"}
CSWIN = {"embed_dim": 64, "split_size": [1, 2, 7, 7], "num_heads": [2, 4, 8, 16], "attn_type": "LLSS"}
CSWIN |= {"la_split_size": "56-28-14-7"}
SLAB = {
    "slab_deit_tiny": {"embed_dim": 192, "num_heads": 3},
    "slab_deit_small": {"embed_dim": 384, "num_heads": 6},
    "deit_tiny_prepbn": {"embed_dim": 192, "num_heads": 3},
    "deit_small_prepbn": {"embed_dim": 384, "num_heads": 6},
    "swin_tiny_prepbn": {**SWIN, "window_size": 7},
    "slab_swin_tiny": LLSS,
    "slab_swin_small": {**LLSS, "depths": [2, 2, 18, 2]},
    "slab_swin_base": {**LLSS, "depths": [2, 2, 18, 2], "embed_dim": 128, "num_heads": [4, 8, 16, 32]},
    "slab_cswin_tiny": {**CSWIN, "depth": [2, 4, 18, 1]},
    "slab_cswin_small": {**CSWIN, "depth": [2, 4, 32, 2]},
}

XCIT_SIZES = {
    "nano_12": {"embed_dim": 128, "depth": 12, "num_heads": 4, "eta": 1.0, "tokens_norm": False},
    "tiny_12": {"embed_dim": 192, "depth": 12, "num_heads": 4, "eta": 1.0},
    "small_12": {"embed_dim": 384, "depth": 12, "num_heads": 8, "eta": 1.0},
    "tiny_24": {"embed_dim": 192, "depth": 24, "num_heads": 4, "eta": 1e-5},
    "small_24": {"embed_dim": 384, "depth": 24, "num_heads": 8, "eta": 1e-5},
    "medium_24": {"embed_dim": 512, "depth": 24, "num_heads": 8, "eta": 1e-5},
    "large_24": {"embed_dim": 768, "depth": 24, "num_heads": 16, "eta": 1e-5},
}
XCIT = {
    f"xcit_{size}_p{patch}{pixels}": {"patch_size": patch, "tokens_norm": True, **own}
    for size, own in XCIT_SIZES.items()
    for patch in (16, 8)
    for pixels in ("", "_384")
}

RMT = {"init_values": [2] * 4, "mlp_ratios": [4, 4, 3, 3], "chunkwise_recurrents": [True, True, True, False]}
RMT_T = {**RMT, "embed_dims": doubled(64), "num_heads": [4, 4, 8, 16], "heads_ranges": [4, 4, 6, 6]}
RMT_T |= {"layerscales": [False] * 4}
RMT_M = {**RMT, "depths": [4, 8, 25, 8], "layerscales": [False, False, True, True], "layer_init_values": 1e-6}
RMT_SIZES = {
    "small": {**RMT_T, "depths": [3, 4, 18, 4]},
    "base": {**RMT_M, "embed_dims": [80, 160, 320, 512], "num_heads": [5, 5, 10, 16], "heads_ranges": [5, 5, 6, 6]},
    "large": {**RMT_M, "embed_dims": [112, 224, 448, 640], "num_heads": [7, 7, 14, 20], "heads_ranges": [6] * 4},
}
TINY = {"depths": [2, 2, 8, 2], "mlp_ratios": [3] * 4, "chunkwise_recurrents": [True, True, False, False]}
RMTS = {
    "rmt_tiny": {**RMT_T, **TINY},
    **{f"rmt_{size}": own for size, own in RMT_SIZES.items()},
    **{f"rmt_{size}_label": {**own, "token_label": True} for size, own in RMT_SIZES.items()},
}
VIG = {"if_cls_token": False, "classification_mode": "avgpool", "patch_embed_version": "v2", "use_out_gate": False}
VIG_S = {**VIG, "use_out_act": False, "use_act_in_conv": False}
VIG_H = {"gmlp": True, "use_act_in_conv": False, "use_out_act": False, "norm_layer": "ln2d"}
VIGS = {
    "vig_tiny": {**VIG, "num_heads": 3, "use_out_act": True},
    "vig_small": {**VIG_S, "embed_dim": 384, "num_heads": 6},
    "vig_base": {**VIG_S, "embed_dim": 768, "num_heads": 12},
    "vig_h_tiny": {**VIG_H, "depths": [2, 2, 5, 2], "dims": doubled(96), "num_heads": doubled(3)},
    "vig_h_small": {**VIG_H, "depths": [2, 2, 17, 2], "dims": doubled(96), "num_heads": doubled(3)},
    "vig_h_base": {**VIG_H, "depths": [2, 2, 17, 2], "dims": doubled(128), "num_heads": doubled(4)},
}
VIL = {"legacy_norm": True, "pooling": "bilateral_flatten", "conv_kind": "2d", "norm_bias": True, "proj_bias": True}
VIL_V1 = {"tiny": (192, 24), "tiny_plus": (192, 29), "small": (384, 24), "small_plus": (384, 26), "base": (768, 24)}
VILS = {
    **{f"vil_{size}": {**VIL, "dim": dim} for size, dim in (("tiny", 192), ("small", 384), ("base", 768))},
    **{f"vil_v1_{size}": {"dim": dim, "depth": depth, "legacy_norm": True} for size, (dim, depth) in VIL_V1.items()},
    **{
        f"vil_v1_{size}_stride8": {"dim": VIL_V1[size][0], "depth": VIL_V1[size][1], "legacy_norm": True, "stride": 8}
        for size in ("tiny_plus", "small_plus", "base")
    },
}

# The large ones were trained on ImageNet-22K, as few classes as in1k_to_21k_map.pth allows.
GF = {"_7x7": None, "_gf": (None, None, (14, 8), (7, 4)), "_gf_img384": (None, None, (24, 13), (12, 7))}
HORNET = {
    f"hornet_{size}{kind}": {
        "depths": [2, 3, 18, 2],
        "base_dim": dim,
        "num_classes": 10_459 if size == "large" else 1000,
        **({"global_filters": GF[kind]} if GF[kind] else {}),
    }
    for size, dim in (("tiny", 64), ("small", 96), ("base", 128), ("large", 192))
    for kind in GF
    if size in ("base", "large") or kind != "_gf_img384"
}
# The tiny SpectFormer has the heads that a comment of the code names: its 6 do not divide the width.
GFNET = {
    "gfnet_tiny": {"embed_dim": 256, "depth": 12},
    "gfnet_xsmall": {"embed_dim": 384, "depth": 12},
    "gfnet_small": {"embed_dim": 384, "depth": 19},
    "gfnet_base": {"embed_dim": 512, "depth": 19},
    "gfnet_h_tiny": {"embed_dim": doubled(64), "depth": [3, 3, 10, 3]},
    "gfnet_h_small": {"embed_dim": doubled(96), "depth": [3, 3, 10, 3], "init_values": 1e-5},
    "gfnet_h_base": {"embed_dim": doubled(96), "depth": [3, 3, 27, 3], "init_values": 1e-6},
    "spectformer_tiny": {"embed_dim": 256, "depth": 12, "num_heads": 4},
    "spectformer_xsmall": {"embed_dim": 384, "depth": 12},
    "spectformer_small": {"embed_dim": 384, "depth": 19},
}
SPECT_H = {
    "spectformer_h_small": (32, [64, 128, 320, 448], [2, 4, 10, 14], [3, 4, 6, 3]),
    "spectformer_h_base": (64, [64, 128, 320, 512], [2, 4, 10, 16], [3, 4, 12, 3]),
    "spectformer_h_large": (64, [96, 192, 384, 512], [3, 6, 12, 16], [3, 6, 18, 3]),
}
SPECTFORMER_H = {
    name: {
        "stem_hidden_dim": stem,
        "embed_dims": dims,
        "num_heads": heads,
        "depths": depths,
        "mlp_ratios": [8, 8, 4, 4],
    }
    for name, (stem, dims, heads, depths) in SPECT_H.items()
}
SPANET = {"embed_dims": [64, 128, 320, 512], "radius": [2, 2, 1, 1], "mlp_ratios": [4] * 4}
SPANET_B = {**SPANET, "embed_dims": [96, 192, 384, 768]}
DCLS = {"dcls_kernel_size": 17, "dcls_kernel_count": 40}
CONVOLUTIONS = {
    "spanet_s": {**SPANET, "layers": [4, 4, 12, 4]},
    "spanet_m": {**SPANET, "layers": [6, 6, 18, 6]},
    "spanet_mx": {**SPANET, "layers": [8, 8, 24, 8]},
    "spanet_b": {**SPANET_B, "layers": [6, 6, 18, 6]},
    "spanet_bx": {**SPANET_B, "layers": [8, 8, 24, 8]},
    "sequencer2d_s": {"layers": [4, 3, 8, 3]},
    "sequencer2d_m": {"layers": [4, 3, 14, 3]},
    "sequencer2d_l": {"layers": [8, 8, 16, 4]},
    "parcnetv2_xt": {"depths": [3, 3, 9, 2], "dims": [48, 96, 192, 320]},
    "parcnetv2_tiny": {"depths": [3, 3, 12, 3], "dims": [64, 128, 320, 512]},
    "parcnetv2_small": {"depths": [3, 9, 24, 3], "dims": [64, 128, 320, 512]},
    "parcnetv2_base": {"depths": [3, 9, 24, 3], "dims": [96, 192, 384, 576]},
    "convnext_dcls_tiny": {**DCLS, "depths": [3, 3, 9, 3], "dims": doubled(96), "dcls_kernel_count": 34},
    "convnext_dcls_small": {**DCLS, "depths": [3, 3, 27, 3], "dims": doubled(96)},
    "convnext_dcls_base": {**DCLS, "depths": [3, 3, 27, 3], "dims": doubled(128)},
    "affnet_et": {"dims": [32, 48, 64, 104, 144], "expand": 2.0},
    "affnet_t": {"dims": [32, 48, 96, 160, 192], "expand": 4.0},
    "affnet": {"dims": [32, 64, 128, 256, 320], "expand": 4.0},
}

OPTIONS: dict[str, Options] = {
    **VMAMBA, **VIDEOS, **IMAGES, **VIM, **PLAIN_MAMBA, **MOBILE, **PVT, **SLAB, **XCIT, **RMTS, **VIGS, **VILS,
    **HORNET, **GFNET, **SPECTFORMER_H, **CONVOLUTIONS,
}  # fmt: skip
