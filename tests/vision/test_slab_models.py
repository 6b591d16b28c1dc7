"""SLAB in stages: norms folded for inference, other sizes of images; Swin's windows; SpectFormer in transformers."""

import pytest
import torch

from golden_cases import load_case
from seqconv import SeqConvBackbone, SeqConvVisionConfig, create_model, from_original, to_transformers
from seqconv.layers.norms import PRepBatchNorm
from seqconv.vision import create_mixer_2d, fold_norms
from seqconv.vision.folding import AffineNorm
from tolerances import assert_near

LEFT = {"slab_swin_model": 1, "swin_prepbn_model": 1, "slab_pvt_model": 4, "slab_cswin_model": 1, "slab_deit_model": 1}
"""Norms without a neighbour: the last one, and in PVT two in front of reduced attention and two inside of it."""


def read(name):
    case = load_case(f"vision/{name}")
    model = from_original(case.meta["original"], case.group("param"), **case.hyper)
    return model.double().eval(), case.tensors["in.x"].double()


@pytest.mark.parametrize("name", LEFT)
def test_folded_norms_change_no_output(name):
    model, x = read(name)
    folded = fold_norms(model)
    assert_near(folded(x), model(x))
    assert not any(isinstance(module, PRepBatchNorm) for module in folded.modules())
    assert sum(isinstance(module, AffineNorm) for module in folded.modules()) == LEFT[name]
    assert any(isinstance(module, PRepBatchNorm) for module in model.modules())


@pytest.mark.parametrize("name", LEFT)
def test_images_of_other_sizes(name):
    model, x = read(name)
    for size in ((36, 52), (64, 32)):
        assert model(torch.randn(1, x.shape[1], *size, dtype=torch.float64)).isfinite().all()


def test_cells_do_not_attend_around_the_edges_of_the_image():
    torch.manual_seed(0)
    mixer = create_mixer_2d("shifted_window", 4, num_heads=1, window=4, shift=2).double()
    x = torch.randn(1, 8, 8, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixer(x)[0, 0, 0].sum(), x)
    assert set(gradient[0].any(-1).nonzero()[:, 0].tolist()) == {0, 1}
    (gradient,) = torch.autograd.grad(mixer(x)[0, 3, 3].sum(), x)
    assert set(gradient[0].any(-1).nonzero()[:, 1].tolist()) == {2, 3, 4, 5}


def test_labels_of_cells_in_transformers():
    torch.manual_seed(0)
    model, images = create_model("spectformer_h_small", num_classes=3).eval(), torch.randn(1, 3, 32, 32)
    made = to_transformers(model)
    with torch.no_grad():
        assert torch.equal(made(images).logits, model(images))
    with torch.device("meta"):
        maps = SeqConvBackbone(SeqConvVisionConfig(backbone_name="spectformer_h_small"))(images.to("meta")).feature_maps
    assert [m.shape[1] for m in maps] == [64, 128, 320, 448]
