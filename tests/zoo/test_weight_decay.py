"""The weights of published models that decay are those of the training code of the originals."""

import re

import pytest
import torch
from torch import nn
from transformers import trainer_pt_utils

from golden_cases import load_case
from seqconv import SeqConvVisionConfig, create_model, from_original
from seqconv.hf.vision.models import SeqConvVisionModel
from seqconv.parameters import mark_vectors, parameter_groups, restore_optimizer_options, set_optimizer_options

STACKED = {"A_log": True, "dt_bias": True, "x_proj.weight": True, "dt_proj.weight": True, "D": False}
SCAN = {"A_log": True, "dt_bias": False, "D": False, "position_embedding": False, "cls_token": False}
CONVS = {"position_convs.0.weight": False, "q_proj.weight": True}
SETS = {
    "vmamba_tiny": STACKED,
    "vmamba_v0_tiny": STACKED,
    "efficient_vmamba_tiny": STACKED,
    "msvmamba_nano": STACKED,
    "mobile_mamba_t2": STACKED,
    "vim_tiny": SCAN,
    "videomamba_image_tiny": SCAN,
    "videomamba_tiny": {**SCAN, "time_embedding": False},
    "plain_mamba_l1": {
        **{"A_log": False, "D": False, "move_B": False, "position_embedding": False, "dt_bias": False},
        **{"mixer.conv2d.weight": True, "mixer.conv2d.bias": True, "in_proj.bias": False, "head.bias": False},
    },
    "audio_mamba_small": {"": True},
    "audio_mamba_base": {
        "A_log": True,
        "dt_bias": True,
        "D": True,
        "cls_token": True,
        "norm.weight": True,
        "bias": True,
    },
    "convnext_dcls_tiny": {"filter.weight": True, "position": False, "mlp_residual.weight": False},
    "vil_tiny": {"position_embedding": False, "conv2d.weight": True, "skip": False, "f_proj.weight": True},
    "affnet_et": {"up_weight": True, "up_bias": True, "down_bias": True},
    "hornet_tiny_gf": {"global_filter.weight": True, "mixer_residual.weight": False},
    "sequencer2d_s": {"recurrent_weight": True, "in_proj.bias": False},
    "spectformer_small": {"position_embedding": False, "0.mixer.weight": True},
    "vig_tiny": {"position_embedding": True, "gate_up.weight": True, "gate_up.bias": False},
    "rmt_base": {"mixer_residual.weight": True, "mlp_residual.weight": True, "mixer_norm.weight": False},
    "xcit_nano_12_p16": {"mixer.temperature": True, "mixer_residual.weight": False, "cls_token": False},
    "slab_pvt_tiny": {"positions.0": True, "positions.3": True, "mixer.positions": True, "norm.alpha": False},
    "pvt_tiny_prepbn": {"positions.0": True, "positions.3": True},
    "slab_deit_tiny": {"position_embedding": False, "mixer.positions": True},
    "slab_swin_tiny": {"relative_bias": False, "mixer.positions": True},
    "gfnet_h_tiny": {"positions.0": False},
    "twins_pcpvt_small": CONVS,
    "twins_svt_small": CONVS,
    "twins_svt_s_ecoformer": CONVS,
}
"""By the last part of names, "" for all; where the code of each original says so: seqconv/vision/weight_decay.py."""


def decaying(model: nn.Module) -> dict[str, bool]:
    groups = parameter_groups(model, lr=1e-3, weight_decay=0.05)
    found = {id(p): group["weight_decay"] > 0 for group in groups for p in group["params"]}
    return {name: found[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", SETS)
def test_decaying_parameters_of_published_models(name):
    with torch.device("meta"):
        found = decaying(create_model(name))
    for ending, decays in SETS[name].items():
        pattern = re.compile(rf"(^|\.){re.escape(ending)}$" if ending else "")
        those = {parameter: decay for parameter, decay in found.items() if pattern.search(parameter)}
        assert those, ending
        assert set(those.values()) == {decays}, those


def test_a_checkpoint_that_is_read_decays_like_the_model_of_that_name():
    case = load_case("vision/xcit_model")
    params = {k: v for k, v in case.group("param").items() if not k.startswith("cell_")}
    model = from_original(case.meta["original"], params, **case.hyper)
    found = decaying(model)
    assert all(decay for name, decay in found.items() if name.endswith("mixer.temperature"))


def test_models_in_transformers_decay_the_same():
    with torch.device("meta"):
        model = SeqConvVisionModel(SeqConvVisionConfig(backbone_name="vmamba_tiny"))
    found = decaying(model)
    assert {decay for name, decay in found.items() if name.endswith(("A_log", "dt_bias"))} == {True}


@pytest.mark.parametrize("name", ["vmamba_tiny", "plain_mamba_l1", "audio_mamba_small"])
def test_the_trainer_of_transformers_decays_the_same(name):
    """Whatever their names say: transformers leaves out biases and norms. Batch norms of stems have no marks."""
    with torch.device("meta"):
        model = nn.ModuleDict({"inside": SeqConvVisionModel(SeqConvVisionConfig(backbone_name=name))})
    marked = {name for name, decay in decaying(model).items() if decay}
    names = trainer_pt_utils.get_parameter_names(model, [nn.LayerNorm], ["bias", "norm"])
    assert len(names) == len(set(names))
    assert marked.issubset(names)
    assert all(".stem." in name for name in set(names) - marked)


def test_vectors_that_decay():
    """Of any shape, in all ways in which marks are read; a later mark replaces an earlier one."""
    norm = nn.LayerNorm(3)
    set_optimizer_options(norm, "weight", weight_decay=0.0)
    set_optimizer_options(norm, "weight", decays=True)
    assert decaying(norm) == {"weight": True, "bias": False}
    assert not hasattr(norm.weight, "_no_weight_decay")
    assert norm.weight._optim == {}
    norm.weight = nn.Parameter(torch.ones(3))
    restore_optimizer_options(norm)
    assert decaying(norm)["weight"]
    with torch.device("meta"):
        model = create_model("rmt_base", num_classes=0)
    mark_vectors(model)
    assert all(decay for name, decay in decaying(model).items() if name.endswith("_residual.weight"))
