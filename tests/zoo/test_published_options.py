"""A published name builds what the reader of its checkpoints builds from the published options of the original."""

import pytest
import torch
from torch import nn

from seqconv import create_model
from seqconv.interop.importer import get_importer
from seqconv.layers.residual import DropPath
from seqconv.zoo import model_entry


def doubled(width):
    return [width * 2**stage for stage in range(4)]


SMALL = {"ssm_d_state": 1, "ssm_conv_bias": False, "forward_type": "v05_noz", "mlp_ratio": 4.0}
SECOND = {"downsample_version": "v3", "patchembed_version": "v2", "norm_layer": "ln2d"}
V0 = {"ssm_d_state": 16, "forward_type": "v0", "mlp_ratio": 0.0, "downsample_version": "v1", "patchembed_version": "v1"}
MULTI = {"ssm_d_state": 1, "ssm_ratio": 2.0, "mlp_ratio": 0.0, "downsample_version": "v1", "patchembed_version": "v1"}
MULTI |= {"convFFN": True, "add_se": True, "sscore_type": "multiscale_4scan_12"}
RMT = {"depths": [4, 8, 25, 8], "init_values": [2] * 4, "mlp_ratios": [4, 4, 3, 3], "layer_init_values": 1e-6}
RMT |= {"chunkwise_recurrents": [True, True, True, False], "layerscales": [False, False, True, True]}
GF = {"global_filters": (None, None, (14, 8), (7, 4))}
SPANET = {"embed_dims": [64, 128, 320, 512], "radius": [2, 2, 1, 1], "mlp_ratios": [4] * 4}
VIL = {"legacy_norm": True, "pooling": "bilateral_flatten", "conv_kind": "2d", "norm_bias": True, "proj_bias": True}
VIG = {"if_cls_token": False, "classification_mode": "avgpool", "patch_embed_version": "v2", "use_out_gate": False}
VIG_H = {"gmlp": True, "use_act_in_conv": False, "use_out_act": False, "norm_layer": "ln2d"}
PVT = {"num_heads": [1, 2, 5, 8], "mlp_ratios": [8, 8, 4, 4], "qkv_bias": True, "nbits": 16, "m": 25}
WANG = {"embed_dims": [64, 128, 320, 512], "num_heads": [1, 2, 5, 8], "mlp_ratios": [8, 8, 4, 4], "qkv_bias": True}
TWINS = {"embed_dims": [64, 128, 256, 512], "num_heads": [2, 4, 8, 16], "mlp_ratios": [4] * 4, "qkv_bias": True}
OPTIONS = {
    "affnet": {},
    "audio_mamba_small": {"embed_dim": 384, "bimamba_type": "v2"},
    "convnext_dcls_small": {"depths": [3, 3, 27, 3], "dims": doubled(96), "dcls_kernel_count": 40},
    "deit_tiny_prepbn": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "efficient_vmamba_tiny": {
        "depths": [2, 2, 4, 2], "dims": doubled(48), "mlp_ratio": 0.0, "downsample_version": "v1",
    },
    "gfnet_tiny": {"embed_dim": 256, "depth": 12},
    "gfnet_h_tiny": {"embed_dim": [64, 128, 256, 512], "depth": [3, 3, 10, 3]},
    "hornet_tiny_gf": {"depths": [2, 3, 18, 2], "base_dim": 64, **GF},
    "mobile_mamba_b1": {"embed_dim": [200, 376, 448], "depth": [2, 3, 2], "ssm_ratio": 2},
    "msvmamba_nano": {"depths": [1, 2, 5, 2], "dims": doubled(48), **MULTI},
    "parcnetv2_xt": {"depths": [3, 3, 9, 2], "dims": [48, 96, 192, 320]},
    "plain_mamba_l1": {"embed_dims": 192, "num_layers": 24, "num_convs_patch_embed": 1, "layers_with_dwconv": [0]},
    "plain_mamba_l3": {"embed_dims": 448, "num_layers": 36, "num_convs_patch_embed": 2},
    "pvtv2_b0_ecoformer": {**PVT, "embed_dims": [32, 64, 160, 256], "depths": [2, 2, 2, 2]},
    "pvtv2_b4_ecoformer": {**PVT, "embed_dims": [64, 128, 320, 512], "depths": [3, 8, 27, 3]},
    "pvt_v2_b5": {**WANG, "mlp_ratios": [4] * 4, "depths": [3, 6, 40, 3]},
    "rmt_base": {**RMT, "embed_dims": [80, 160, 320, 512], "num_heads": [5, 5, 10, 16], "heads_ranges": [5, 5, 6, 6]},
    "rmt_large_label": {
        **RMT, "embed_dims": [112, 224, 448, 640], "num_heads": [7, 7, 14, 20], "heads_ranges": [6] * 4,
        "token_label": True,
    },
    "sequencer2d_s": {"layers": [4, 3, 8, 3]},
    "spanet_s": {**SPANET, "layers": [4, 4, 12, 4]},
    "spectformer_xsmall": {"embed_dim": 384, "depth": 12},
    "twins_pcpvt_base": {**WANG, "depths": [3, 4, 18, 3]},
    "twins_svt_small": {**TWINS, "depths": [2, 2, 10, 4], "sr_ratios": [8, 4, 2, 1], "wss": [7] * 4},
    "twins_svt_s_ecoformer": {**TWINS, "depths": [2, 2, 10, 4], "sr_ratios": [8, 4, 2, 1], "block_cls": "EcoBlock"},
    "videomamba_tiny": {"embed_dim": 192, "depth": 24, "num_classes": 400},
    "vig_tiny": {**VIG, "num_heads": 3, "use_out_act": True},
    "vig_small": {**VIG, "embed_dim": 384, "num_heads": 6, "use_out_act": False, "use_act_in_conv": False},
    "vig_h_base": {**VIG_H, "depths": [2, 2, 17, 2], "dims": doubled(128), "num_heads": [4, 8, 16, 32]},
    "vil_tiny": {**VIL, "dim": 192, "depth": 12},
    "vil_v1_tiny_plus_stride8": {"dim": 192, "depth": 29, "stride": 8, "legacy_norm": True},
    "vim_small_plus": {"embed_dim": 384, "stride": 8},
    "vim_base": {"embed_dim": 768, "if_devide_out": True},
    "vmamba_small_s1l20": {"depths": [2, 2, 20, 2], "dims": doubled(96), "ssm_ratio": 1.0, **SMALL, **SECOND},
    "vmamba_base": {"depths": [2, 2, 15, 2], "dims": doubled(128), "ssm_ratio": 2.0, **SMALL, **SECOND},
    "vmamba_v0_tiny": {"depths": [2, 2, 9, 2], "dims": doubled(96), **V0},
}  # fmt: skip
"""As the repositories' configurations name and set them; the docstrings of the families say in which files."""

IRRELEVANT = {"published", "training", "drop_path"}


def options_of(module: nn.Module) -> dict:
    simple = (bool, int, float, str, tuple, type(None))
    found = {k: v for k, v in vars(module).items() if k not in IRRELEVANT and not k.startswith("_")}
    found = {k: float(v) if type(v) is int else v for k, v in found.items() if isinstance(v, simple)}
    return found | {f"shape of {name}": tuple(p.shape) for name, p in module.named_parameters(recurse=False)}


@pytest.mark.parametrize("name", OPTIONS)
def test_names_have_the_published_options(name):
    entry = model_entry(name)
    with torch.device("meta"):
        named, read = create_model(name), get_importer(entry.original).build(**OPTIONS[name])
    modules, others = dict(named.named_modules()), dict(read.named_modules())
    assert modules.keys() == others.keys()
    for path, module in modules.items():
        assert type(module) is type(others[path]), path
        if not isinstance(module, DropPath):
            assert options_of(module) == options_of(others[path]), path
