"""Initial values of published models, measured on the constructors of the originals."""

import re

import pytest
import torch

from seqconv import create_model
from seqconv.interop.importer import get_importer
from seqconv.vision.backbones.plain import PlainBackbone

IMAGES = "OpenGVLab/VideoMamba:image_sm.VisionMamba"
UNIFORM = 3**-0.5
"""Standard deviation of a uniform distribution on -1 … 1."""
SMALL_LINEAR = {"mlp.up.weight": 0.02, "mlp.down.weight": 0.02, "mlp.down.bias": 0.0, "head.weight": 0.02}
FAN_OUT = {
    **SMALL_LINEAR,
    "backbone.downsamplings.0.conv.bias": 0.0,
    "backbone.stem.proj.bias": 0.0,
    "out_proj.weight": 0.02,
    "out_proj.bias": 0.0,
}
VALUES = {
    "videomamba_image_tiny": {
        "patch_embedding.weight": UNIFORM / 768**0.5, "patch_embedding.bias": UNIFORM / 768**0.5, "cls_token": 0.0,
        "mixer.dt_bias": 0.0, "in_proj.weight": 0.02, "selection.0.x_proj.weight": 0.02,
        "selection.0.dt_proj.weight": 0.02, "mixer.out_proj.weight": UNIFORM / (384 * 24) ** 0.5,
        "position_embedding": 0.02, "cls_position_embedding": 0.02, "head.weight": 0.02,
    },
    "deit_tiny_prepbn": {
        **SMALL_LINEAR, "qkv_proj.weight": 0.02, "qkv_proj.bias": 0.0, "o_proj.weight": 0.02, "o_proj.bias": 0.0,
        "patch_embedding.weight": UNIFORM / 768**0.5, "cls_token": 0.02,
    },
    "slab_deit_tiny": {**SMALL_LINEAR, "qkv_proj.weight": 0.02, "qkv_proj.bias": 0.0, "out_proj.bias": 0.0},
    "slab_pvt_tiny": {**SMALL_LINEAR, "stem.proj.weight": UNIFORM / 48**0.5, "conv2d.weight": UNIFORM / 5},
    "slab_pvt_v2_b0": {**FAN_OUT, "mixer.conv2d.weight": (2 / 25) ** 0.5, "mlp.conv2d.weight": (2 / 9) ** 0.5},
    "pvtv2_b0_ecoformer": {**FAN_OUT, "mlp.conv2d.weight": (2 / 9) ** 0.5, "stem.proj.weight": (2 / 49 / 32) ** 0.5},
    "pvt_v2_b0": {**FAN_OUT, "mlp.conv2d.weight": (2 / 9) ** 0.5},
    "twins_svt_s_ecoformer": {**FAN_OUT, "position_convs.0.weight": (2 / 9) ** 0.5, "position_convs.0.bias": 0.0},
    "twins_pcpvt_small": {**FAN_OUT, "stem.proj.weight": (2 / 16 / 64) ** 0.5},
    "twins_svt_small": FAN_OUT,
}  # fmt: skip
"""Standard deviations by the last part of names."""


@pytest.mark.parametrize("name", VALUES)
def test_spread_of_initial_values(name):
    torch.manual_seed(0)
    parameters = dict(create_model(name).named_parameters())
    for ending, wanted in VALUES[name].items():
        pattern = re.compile(rf"(^|\.){re.escape(ending)}$")
        found = [p.detach().flatten() for parameter, p in parameters.items() if pattern.search(parameter)]
        assert found, ending
        drawn = torch.cat(found)
        tolerance = max(0.01, 3 / len(drawn) ** 0.5)
        assert drawn.std(correction=0).item() == pytest.approx(wanted, rel=tolerance), ending
        assert abs(drawn.mean().item()) <= 5 * wanted / len(drawn) ** 0.5, ending


@pytest.mark.parametrize(
    "original", ["OpenGVLab/VideoMamba:image_sm.VisionMamba", "xinghaochen/SLAB:deit.VisionTransformer"]
)
def test_models_built_by_their_reader_have_the_same(original):
    small = {"embed_dim": 64, "depth": 2, "img_size": 32, "num_classes": 2}
    model = get_importer(original).build(**small | ({"num_heads": 2} if "SLAB" in original else {}))
    weights = [p for name, p in model.named_parameters() if name.endswith(("in_proj.weight", "qkv_proj.weight"))]
    assert len(weights) == 2
    assert all(weight.std().item() == pytest.approx(0.02, rel=0.1) for weight in weights)


def test_initialisation_of_plain_backbones():
    with pytest.raises(ValueError, match="initialisation"):
        PlainBackbone("mamba", d_model=8, depth=1, image_size=32, initialisation="scann")
    pairs = PlainBackbone("vim", d_model=8, depth=2, image_size=32, pairs=True, initialisation="scan")
    assert all(p.abs().max() == 0 for name, p in pairs.named_parameters() if name.endswith("dt_bias"))
