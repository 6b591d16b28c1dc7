"""EcoFormer's PVTv2 and Twins: any size of images, training of all hash functions, and what the readers cannot tell."""

import pytest
import torch

from golden_cases import load_case
from seqconv import create_model, from_original, to_transformers
from seqconv.vision.mixers.attention.hash_training import train_hashes
from seqconv.zoo.attention.ecoformer import TWINS, hashed, pvt_v2, reduced, twins

DIMS, DEPTHS = (4, 8, 8, 8), (1, 2, 1, 1)


def small(kind):
    torch.manual_seed(0)
    make = pvt_v2 if kind == "pvt" else twins
    mixers = [*(hashed(heads, num_bits=3, num_anchors=4) for heads in (1, 2, 2)), reduced(2)]
    return make(DIMS, DEPTHS, mixers, mlp_ratios=(1.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize(("kind", "size"), [("pvt", (33, 46)), ("pvt", (4, 5)), ("twins", (35, 61))])
def test_features_of_any_size(kind, size):
    backbone = small(kind)
    maps = backbone(torch.randn(1, 3, *size))
    assert [m.shape[-1] for m in maps] == list(DIMS)
    round_up = kind == "pvt"
    for cells, stride in zip(maps, backbone.strides, strict=True):
        assert cells.shape[1:3] == tuple(-(-side // stride) if round_up else side // stride for side in size)


@pytest.mark.parametrize("kind", ["pvt", "twins"])
def test_all_hash_functions_of_a_model_are_trained(kind):
    backbone = small(kind)
    losses = train_hashes(backbone, torch.randn(1, 3, 32, 32), top_k=2, steps=2)
    assert [len(bits) for bits in losses.values()] == [3] * sum(DEPTHS[:-1])


@pytest.mark.parametrize("kind", ["pvt", "twins"])
def test_built_on_meta_and_reset_equals_one_that_was_built(kind):
    def reset(module):
        for child in module.children():
            reset(child)
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()

    want = small(kind).state_dict()
    with torch.device("meta"):
        backbone = small(kind)
    torch.manual_seed(0)
    reset(backbone.to_empty(device="cpu"))
    got = backbone.state_dict()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []


def test_in_transformers():
    torch.manual_seed(0)
    model, images = create_model("pvtv2_b0_ecoformer", num_classes=3).eval(), torch.randn(1, 3, 40, 32)
    with torch.no_grad():
        assert torch.equal(to_transformers(model)(images).logits, model(images))


def test_errors_say_what_to_do(unannotated):
    case = load_case("vision/twins_svt_model")
    params = case.group("param")
    whole = {name: t for name, t in params.items() if ".attn.q." not in name}
    cases = {
        "block_cls='None'.*one of EcoBlock": lambda: from_original(TWINS, whole),
        "block_cls='SBlock'.*one of EcoBlock": lambda: from_original(TWINS, params, block_cls="SBlock"),
        "qk_scale=0.5": lambda: from_original(TWINS, params, qk_scale=0.5),
        "linear=True": lambda: from_original("ziplab/EcoFormer:PyramidVisionTransformerV2", {}, linear=True),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
