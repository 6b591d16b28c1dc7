"""XCiT's parts: positions and stem at any size, drop path, checkpointing, any mixer, errors."""

import math

import pytest
import torch

from golden_cases import assert_close, load_case
from seqconv import from_original
from seqconv.interop.importer import Weights, get_importer
from seqconv.vision import create_mixer_2d, pack_images
from seqconv.vision.backbones.block import Block2d
from seqconv.vision.backbones.class_attention import ClassAttentionLayers
from seqconv.vision.backbones.normed_conv import HalvingStem
from seqconv.vision.backbones.plain_2d import PlainBackbone2d
from seqconv.vision.positions import FourierPositions
from seqconv.zoo.xcit import xcit


def small(**options):
    torch.manual_seed(0)
    return xcit(8, 3, 2, patch_size=8, mlp_ratio=2.0, **options)


@pytest.mark.parametrize("size", [(8, 8), (17, 30)])
def test_features_of_any_size(size):
    backbone = small(out_indices=[0, 2]).eval()
    features, last = backbone.features(torch.randn(2, 3, *size))
    assert [tuple(m.shape) for m in features] == [(2, -(-size[0] // 8), -(-size[1] // 8), 8)] * 2
    assert backbone.pool(last).shape == (2, 8)


def test_positions_are_fractions_of_the_image():
    """Every second of twice as many rows has the position of a row."""
    positions = FourierPositions(6).double()
    cells = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    fine = positions(cells.repeat(1, 2, 2, 1))
    assert_close(fine[1::2, 1::2], positions(cells), 1e-5, 1e-5)
    with torch.no_grad():
        positions.proj.weight.zero_()[0, 0], positions.proj.weight[1, 33] = 1, 1
        positions.proj.bias.zero_()
    made = positions(cells)
    assert_close(made[:, 2, 0], torch.tensor([2 * math.pi * r / 3 for r in (1, 2, 3)]).double().sin(), 1e-5, 1e-5)
    assert_close(made[1, :, 1], torch.tensor([2 * math.pi * c / 4 for c in (1, 2, 3, 4)]).double().cos(), 1e-5, 1e-5)


def test_all_blocks_have_one_rate_of_drop_path():
    assert [block.drop_path.p for block in small(drop_path=0.3).blocks] == [0.3] * 3


def test_checkpointing_changes_no_gradient_and_no_statistics():
    images, gradients, statistics = torch.randn(2, 3, 16, 24, dtype=torch.float64), [], []
    for checkpointing in (False, True):
        backbone = small(gradient_checkpointing=checkpointing).double()
        backbone.pooled(images).square().sum().backward()
        gradients.append([p.grad for p in backbone.parameters()])
        statistics.append(list(backbone.buffers()))
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, 1e-12, 1e-14)
    for a, b in zip(*statistics, strict=True):
        assert_close(a, b, 1e-12, 1e-14)


def test_what_tensors_do_not_tell_is_as_published_or_as_in_the_constructor():
    infer = get_importer("facebookresearch/xcit:XCiT").infer
    for sizes, norm_cells in (((192, 24, 4), True), ((128, 12, 4), False), ((8, 3, 2), False)):
        width, depth, heads = sizes
        names = {"pos_embeder.token_projection.weight": (width, 64, 1, 1), "cls_token": (1, 1, width)}
        names |= {"blocks.0.attn.temperature": (heads, 1, 1), "blocks.0.mlp.fc1.bias": (4 * width,)}
        names |= {f"blocks.{index}.gamma1": (width,) for index in range(depth)}
        tensors = {name: torch.empty(shape, device="meta") for name, shape in names.items()}
        assert infer(Weights("xcit", tensors))["tokens_norm"] is norm_cells


def test_local_interaction_and_class_attention_on_another_mixer():
    torch.manual_seed(0)
    backbone = PlainBackbone2d(
        "vig",
        d_model=8,
        depth=1,
        image_size=8,
        patch_size=4,
        block_options={"local_interaction": True, "layer_scale": 0.1},
        class_attention={"num_heads": 2, "depth": 1},
        pooling="ends",
        pooled_norm=True,
        mixer_options={"num_heads": 2},
    )
    backbone.pooled(torch.randn(2, 3, 9, 12)).sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_packed_images_are_each_as_alone():
    torch.manual_seed(0)
    reading = {"num_heads": 2, "depth": 2}
    backbone = PlainBackbone2d(
        "xca", d_model=8, depth=2, patch_size=4, mlp_ratio=2.0, positions="fourier", class_attention=reading
    )
    backbone, images = backbone.double().eval(), [torch.randn(3, 8, 12).double(), torch.randn(3, 16, 4).double()]
    alone = torch.cat([backbone.pooled(image[None]) for image in images])
    assert_close(backbone.pooled(pack_images(images, 4)), alone, 1e-10, 1e-12)


def test_errors_say_what_to_do(unannotated):
    mixer, sizes = create_mixer_2d("xca", 8), {"d_model": 8, "depth": 1}
    case = load_case("vision/xcit_model")
    read = {**case.hyper, "num_classes": 3}
    packed = pack_images([torch.zeros(3, 8, 8)], 8)
    cases = {
        r"patch_size=12, d_model=8.*power of two": lambda: HalvingStem(3, 8, 12),
        r"patch_size=16, d_model=12.*multiple": lambda: HalvingStem(3, 12, 16),
        r"positions 'fourer'.*did you mean 'fourier'": lambda: PlainBackbone2d("xca", positions="fourer", **sizes),
        r"drop_path_schedule 'even'.*one of": lambda: PlainBackbone2d("xca", drop_path_schedule="even", **sizes),
        r"local_interaction=True, single_residual=True": lambda: Block2d(
            mixer, local_interaction=True, single_residual=True
        ),
        r"depth=0.*leave class_attention out": lambda: ClassAttentionLayers(8, num_heads=2, depth=0),
        r"num_heads=3 for d_model=8": lambda: ClassAttentionLayers(8, num_heads=3),
        r"a stem of each patch by itself": lambda: small().pooled(packed),
        r"patch_size=4.*checked": lambda: from_original("facebookresearch/xcit:XCiT", {}, **read | {"patch_size": 4}),
        r"in_chans=1.*checked": lambda: from_original("facebookresearch/xcit:XCiT", {}, **read | {"in_chans": 1}),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
