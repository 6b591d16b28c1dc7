"""SLAB in stages: norms folded for inference, other sizes of images; Swin's windows; SpectFormer in transformers."""

import copy

import pytest
import torch

from golden_cases import load_case
from seqconv import SeqConvBackbone, SeqConvVisionConfig, create_model, from_original, to_transformers
from seqconv.layers.norms import PRepBatchNorm
from seqconv.vision import create_mixer_2d, fold_norms
from seqconv.vision.backbones.backbone import ImageClassifier
from seqconv.vision.folding import AffineNorm
from seqconv.zoo.attention.slab_stages import swin_stages
from tolerances import assert_near

LEFT = {
    "slab_swin_model": 1,
    "swin_prepbn_model": 1,
    "slab_pvt_model": 4,
    "slab_pvt_v2_model": 5,
    "slab_cswin_model": 1,
    "slab_deit_model": 1,
    "deit_prepbn_model": 1,
}
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


def test_norms_that_lost_their_first_part_are_read():
    """The state dict of norms after their training (RepBN)."""
    case = load_case("vision/deit_prepbn_model")
    model, x = read("deit_prepbn_model")
    first = ("norm1.norm1.", "norm2.norm1.", ".iter", ".warm", ".total_step")
    kept = {k: t for k, t in case.group("param").items() if not k.endswith(first[2:])}
    kept = {
        k: t for k, t in kept.items() if not any(part in k for part in first[:2]) and not k.startswith("norm.norm1.")
    }
    trained = {k.replace(".norm2.alpha", ".alpha").replace(".norm2.bn.", ".bn."): t for k, t in kept.items()}
    read_again = from_original(case.meta["original"], trained, **case.hyper).double().eval()
    assert torch.equal(read_again(x), model(x))
    assert all(m.remaining == 0 for m in read_again.modules() if isinstance(m, PRepBatchNorm))


def test_the_class_token_is_normed_by_the_statistics_of_all_tokens_in_training():
    model, x = read("deit_prepbn_model")
    model.train()
    norm = model.backbone.norm
    norm.remaining.zero_()
    seen = []
    norm.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    pooled = model.backbone.pooled(torch.cat([x, 2 * x]))
    assert seen[0][0].shape[:2] == (2, 17)
    assert torch.equal(pooled, seen[0][1][:, 0])


@pytest.mark.parametrize("name", ["slab_deit_tiny", "rmt_tiny"])
def test_checkpointing_counts_statistics_and_steps_once(name):
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 16} if name == "slab_deit_tiny" else {}
    model, results = create_model(name, num_classes=2, **sizes).double().train(), []
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    for checkpointing in (False, True):
        model.load_state_dict(state)
        model.backbone.gradient_checkpointing = checkpointing
        model.zero_grad()
        (model(images).square().sum() + model(2 * images).square().sum()).backward()
        results.append((model.state_dict(), {name: p.grad for name, p in model.named_parameters()}))
        results[-1] = copy.deepcopy(results[-1])
    (buffers, gradients), (buffers_again, gradients_again) = results
    for name, tensor in buffers.items():
        assert torch.equal(tensor, buffers_again[name]), name
    largest = max(g.abs().max().item() for g in gradients.values() if g is not None)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(gradients_again[name], gradient, rtol=1e-9, atol=1e-9 * largest, msg=name)


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


@pytest.mark.slow
def test_stages_of_different_mixers_are_exported_and_compiled(unannotated):
    torch.manual_seed(0)
    backbone = swin_stages(8, (1, 2), (1, 2), "LS", steps=10, image_size=32, windows=(4, 2)).eval()
    model, x = ImageClassifier(backbone, 3).double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
    assert_near(program.module()(torch.cat([x, x])), model(torch.cat([x, x])))
    torch.compiler.reset()
    assert_near(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
