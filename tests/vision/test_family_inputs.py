"""What holds for the models of every family, tried on the tiny ones of the originals' code."""

import json

import pytest
import torch

from golden_cases import GOLDEN, load_case, load_variant
from seqconv import from_original, list_models
from seqconv.layers.residual import DropPath
from seqconv.vision import pack_images
from seqconv.vision.backbones.backbone import ImageClassifier, SpectrogramClassifier
from seqconv.vision.backbones.plain import PlainBackbone
from seqconv.vision.backbones.plain_2d import PlainBackbone2d
from seqconv.zoo import model_entry
from tolerances import assert_near

ORIGINALS = {
    model_entry(name).original for name in list_models() if model_entry(name).classifier is not SpectrogramClassifier
}
CASES = {
    "hustvl/Vim:VisionMamba": ("scan/vim", "vision_mamba"),
    "hustvl/ViG:ViG": ("scan/vig", "vig_model"),
    "NX-AI/vision-lstm:VisionLSTM": ("scan/vision_lstm", "v1"),
}
for _folder in sorted((GOLDEN / "vision").iterdir()):
    _meta = json.loads((_folder / "case.json").read_text())
    if _meta.get("original") in ORIGINALS and "parameters" not in _meta and "num_frames" not in _meta["hyper"]:
        CASES.setdefault(_meta["original"], f"vision/{_folder.name}")
every_family = pytest.mark.parametrize("original", sorted(CASES))


def read(original):
    """The tiny model in evaluation and in float64, and its images."""
    name = CASES[original]
    case = load_variant(*name) if isinstance(name, tuple) else load_case(name)
    hyper = case.meta["cfg"] if isinstance(name, tuple) else case.hyper
    params = {k: v.double() if v.is_floating_point() else v for k, v in case.group("param").items()}
    return from_original(original, params, **hyper), case.tensors["in.x"].double()


def test_every_family_of_images_is_tried():
    videos = {model_entry(name).original for name in list_models() if not model_entry(name).takes_images}
    assert ORIGINALS - videos <= CASES.keys()


@every_family
def test_layouts_batches_and_sizes(original):
    model, images = read(original)
    assert isinstance(model, ImageClassifier)
    want = model(images)
    assert_near(model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)), want)
    assert_near(model(images.mT.contiguous().mT), want)
    assert_near(model(torch.cat([images, images.flip(-1)]))[: len(images)], want)
    assert model(images[:0]).shape == (0, want.shape[1])
    assert torch.equal(model.forward_features(images), model.backbone(images)[-1])
    height, width = images.shape[2:]
    for size in ((height + 1, 2 * width - 1), (2 * height + 3, width)):
        larger = torch.randn(2, images.shape[1], *size, dtype=torch.float64)
        assert model(larger).isfinite().all()
        for cells, dim, stride in zip(model.backbone(larger), model.backbone.dims, model.backbone.strides, strict=True):
            assert cells.shape[-1] == dim
            assert all(abs(n - pixels / stride) <= 2 for n, pixels in zip(cells.shape[1:3], size, strict=True))


@every_family
def test_images_that_do_not_fit_raise(original, unannotated):
    model, images = read(original)
    channels = images.shape[1]
    with pytest.raises(ValueError, match=r"dtype torch.uint8.*images.float\(\) / 255"):
        model((255 * images).to(torch.uint8))
    with pytest.raises(ValueError, match=rf"\(batch, {channels}, height, width\).*in_channels"):
        model(images[:, :1].repeat(1, channels + 1, 1, 1))
    with pytest.raises(ValueError, match=rf"\(batch, {channels}, height, width\).*images\[None\]"):
        model(images[0])
    with pytest.raises(ValueError, match=r"images of 0 by .*enlarge"):
        model(images[:, :, :0])


@every_family
def test_checkpointing_changes_no_gradient_and_drop_path_rests_in_evaluation(original):
    model, images = read(original)
    dropped = [module for module in model.modules() if isinstance(module, DropPath)]
    for module in dropped:
        module.p = 0.5
    gradients = []
    for checkpointing in (False, True):
        model.backbone.gradient_checkpointing = checkpointing
        model.zero_grad()
        y = model(images)
        y.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_near(gradients[1][name], gradient, what=name)
    assert len(gradients[0]) > 10


@every_family
def test_packed_images_give_what_they_give_alone(original):
    """Or raise, where cells of other images would be mixed."""
    model, images = read(original)
    backbone = model.backbone
    if not isinstance(backbone, PlainBackbone | PlainBackbone2d):
        with pytest.raises(ValueError, match="packed images"):
            model(pack_images(list(images), 4))
        return
    other = torch.randn(images.shape[1], images.shape[2] + 8, images.shape[3], dtype=torch.float64)
    stride = backbone.patch_embedding.stride if isinstance(backbone, PlainBackbone) else backbone.stride
    packed = pack_images([images[0], other], backbone.patch_size, stride)
    try:
        together = model(packed)
    except ValueError as error:
        together = error
    if isinstance(together, ValueError):
        assert "one size at a time" in str(together)
    else:
        assert_near(together, torch.cat([model(images[:1]), model(other[None])]))
