"""Images of different sizes in one row: each gives what it gives alone, values and gradients."""

import pytest
import torch
from torch.utils.data import DataLoader

from seqconv.vision import create_mixer_2d, pack_images, packing_collator
from seqconv.vision.backbones.backbone import ImageClassifier
from seqconv.vision.backbones.hierarchical import HierarchicalBackbone
from seqconv.vision.backbones.plain import PlainBackbone
from seqconv.vision.backbones.plain_2d import PlainBackbone2d
from tolerances import assert_near

SIZES = [(8, 12), (4, 4), (9, 6), (8, 12), (5, 16)]
GLA = {"mixer": "gla", "mixer_options": {"num_heads": 2}}
BACKBONES = {
    "vim": lambda: PlainBackbone("vim", d_model=8, depth=2, out_indices=[0, 1], image_size=12, patch_size=4),
    "mean": lambda: PlainBackbone("mamba", d_model=8, depth=2, pooling="mean", image_size=8, patch_size=4),
    "overlap": lambda: PlainBackbone("gla", d_model=8, depth=1, image_size=8, patch_size=4, stride=2, order="column"),
    "scan": lambda: PlainBackbone2d(
        "scan", d_model=8, depth=2, image_size=8, patch_size=4, mixer_options=GLA, mlp_ratio=2.0, pooling="ends"
    ),
    "shared": lambda: PlainBackbone2d(
        "scan", d_model=8, depth=1, image_size=8, patch_size=4, mixer_options={**GLA, "shared": True, "merge": "concat"}
    ),
    "ss2d": lambda: PlainBackbone2d("ss2d", d_model=8, depth=2, image_size=8, patch_size=4, stem="patch"),
}


def pictures():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, *size, generator=generator, dtype=torch.float64).requires_grad_() for size in SIZES]


def stride_of(backbone):
    return backbone.strides[0]


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_image_gives_what_it_gives_alone(kind, checkpointing):
    torch.manual_seed(0)
    model = ImageClassifier(BACKBONES[kind](), 3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images, gradients = pictures(), []
    alone = torch.cat([model(image[None]) for image in images])
    alone.square().sum().backward()
    gradients.append([p.grad.clone() for p in model.parameters()] + [image.grad.clone() for image in images])
    model.zero_grad()
    model.backbone.gradient_checkpointing = checkpointing
    images = pictures()
    packed = pack_images(images, 4, stride_of(model.backbone))
    together = model(packed)
    assert_near(together, alone)
    together.square().sum().backward()
    gradients.append([p.grad for p in model.parameters()] + [image.grad for image in images])
    for a, b in zip(*gradients, strict=True):
        assert_near(a, b)
    maps = model.backbone.packed_features(packed)[0]
    for found, image in zip(zip(*maps, strict=True), images, strict=True):
        for a, b in zip(found, model.backbone(image[None]), strict=True):
            assert_near(a, b)


@pytest.mark.parametrize("name", ["hyena", "ss2d", "scan"])
def test_packed_cells_of_mixers(name):
    torch.manual_seed(0)
    mixer, sizes = create_mixer_2d(name, 8).double().eval(), [(2, 3), (1, 1), (2, 3), (3, 2)]
    images = [torch.randn(1, *size, 8, dtype=torch.float64) for size in sizes]
    y = mixer(torch.cat([image.flatten(1, 2) for image in images], dim=1)[None], sizes=sizes)
    assert_near(y, torch.cat([mixer(image).flatten(1, 2) for image in images], dim=1)[None])


def test_a_loader_packs_its_batches():
    data = [(image.detach(), label) for label, image in enumerate(pictures())]
    (first, labels), *_ = DataLoader(data, batch_size=3, collate_fn=packing_collator(4))
    assert first.sizes == ((2, 3), (1, 1), (2, 1))
    assert first.cu_seqlens.tolist() == [0, 6, 7, 9]
    assert first.to(torch.float32).patches.dtype == torch.float32
    assert labels.tolist() == [0, 1, 2]
    assert torch.equal(first.patches[4], data[0][0][:, 4:8, 4:8])


def test_errors_say_what_to_do(unannotated):
    image, backbone = torch.zeros(3, 8, 8), BACKBONES["vim"]()
    pairs = PlainBackbone("mamba", d_model=8, depth=2, pairs=True, image_size=8, patch_size=4)
    wavy = PlainBackbone2d(
        "ss2d", d_model=8, depth=1, image_size=8, patch_size=4, block_options={"position_conv": True}
    )
    mixer = create_mixer_2d("ss2d", 8)
    cases = {
        r"no images": lambda: pack_images([], 4),
        r"shapes \[\(3, 8, 8\), \(1, 8, 8\)\]": lambda: pack_images([image, image[:1]], 4),
        r"dtype torch.uint8.*/ 255": lambda: pack_images([image.to(torch.uint8)], 4),
        r"an image of 3 rows or 8 columns.*4 by 4": lambda: pack_images([image, image[:, :3]], 4),
        r"stride\) = \(3, \(2, 2\), \(2, 2\)\).*\(3, \(4, 4\), \(4, 4\)\)": lambda: backbone.pooled(
            pack_images([image], 2)
        ),
        r"for pairs of blocks": lambda: pairs.pooled(pack_images([image], 4)),
        r"mixes cells outside of its mixer": lambda: wavy.pooled(pack_images([image], 4)),
        r"for a HierarchicalBackbone": lambda: HierarchicalBackbone("ss2d", dims=[8], depths=[1]).pooled(
            pack_images([image], 4)
        ),
        r"sizes of 6 cells.*\(1, 1, 6, d_model\)": lambda: mixer(torch.zeros(1, 1, 5, 8), sizes=[(2, 3)]),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
