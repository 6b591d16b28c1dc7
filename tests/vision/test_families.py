"""What engineers do with any model, over a tiny one of every family: modes, transforms, hooks, offloading."""

import accelerate
import pytest
import torch
from torch.func import functional_call, grad, vmap

from golden_cases import GOLDEN, load_case
from seqconv import SeqConvVisionConfig, from_original
from seqconv.hf.vision.models import SeqConvBackbone, SeqConvVisionForImageClassification
from seqconv.vision.video.backbone import VideoBackbone, VideoClassifier
from tolerances import assert_near

OTHERS = {"audio_mamba_model", "plainmamba_model", "rmt_label_model", "sashimi_model", "videomamba_model"}
"""Models of other inputs, and cases that hold a part of the options or weights."""
MODELS = sorted({path.name for kind in ("model", "vssm") for path in (GOLDEN / "vision").glob(f"*_{kind}")} - OTHERS)
every = pytest.mark.parametrize("name", MODELS)
TINY = {"mixer": "ss2d", "dims": [4, 6, 8], "depths": [1, 1, 1], "mixer_options": {"d_state": 1}}


def family(name):
    """The model of a golden case and images that it reads."""
    case = load_case(f"vision/{name}")
    torch.manual_seed(0)
    model = from_original(case.meta["original"], case.group("param"), **case.hyper).eval()
    return model.double(), case.tensors["in.x"].double()


def classifier(**options):
    torch.manual_seed(0)
    config = SeqConvVisionConfig(backbone_name="hierarchical", backbone_options=TINY, num_labels=2, **options)
    return SeqConvVisionForImageClassification(config).eval()


@every
def test_training_follows_inference_and_transforms(name):
    """What a call keeps for the next one of the same size is of use in every mode."""
    model, x = family(name)
    with torch.inference_mode():
        want = model(x)
    model(x).sum().backward()
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    got = grad(lambda p: functional_call(model, p, (x,)).sum())(parameters)
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(got[key], parameter.grad, rtol=1e-6, atol=1e-9)
    assert_near(model(x), want)


@every
def test_every_module_is_called_and_may_be_offloaded(name):
    model, x = family(name)
    called = set()
    hooks = [m.register_forward_hook(lambda module, *_: called.add(module)) for m in model.modules()]
    want = model(x)
    want.sum().backward()
    assert model.backbone in called
    missed = [m for m in model.modules() if m not in called and not isinstance(m, torch.nn.ParameterList)]
    assert [m for m in missed if any(p.grad is not None for p in m.parameters(recurse=False))] == []
    for hook in hooks:
        hook.remove()
    cpu = torch.device("cpu")
    offloaded = accelerate.cpu_offload(model, execution_device=cpu, offload_buffers=True)
    assert all(p.is_meta for p in offloaded.parameters())
    with torch.no_grad():
        assert_near(offloaded(x), want.detach())


@every
def test_shapes_are_known_on_the_meta_device(name):
    model, x = family(name)
    with torch.device("meta"):
        assert model.to("meta")(x.to("meta")).shape == (len(x), model.num_classes)


@pytest.mark.parametrize("name", ["mobilemamba_model", "vil2_model", "gfnet_model"])
def test_gradients_of_single_images(name):
    model, x = family(name)
    parameters = {key: p.detach() for key, p in model.named_parameters()}
    single = grad(lambda p, image: functional_call(model, p, (image[None],)).square().sum())
    found = vmap(single, in_dims=(None, 0))(parameters, x)
    model(x[:1]).square().sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(found[key][0], parameter.grad, rtol=1e-6, atol=1e-9)


def test_videos_may_be_offloaded():
    sizes = {"image_size": 8, "patch_size": 4, "num_frames": 2}
    model = VideoClassifier(VideoBackbone("vim", d_model=8, depth=1, **sizes), 3).eval()
    videos = torch.randn(1, 3, 2, 8, 8)
    want = model(videos).detach()
    with torch.no_grad():
        got = accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)(videos)
    assert_near(got, want)


def test_accelerate_loads_what_it_built_empty(tmp_path):
    model, images = classifier(), torch.randn(1, 3, 24, 16)
    model.save_pretrained(tmp_path)
    with accelerate.init_empty_weights():
        empty = classifier()
    assert all(p.is_meta for p in empty.parameters())
    assert not any(b.is_meta for b in empty.buffers())
    loaded = accelerate.load_checkpoint_and_dispatch(empty, tmp_path, device_map="auto").eval()
    assert_near(loaded(images).logits, model(images).logits)


def test_stages_may_be_counted_from_the_last(tmp_path):
    model, images = classifier(), torch.randn(1, 3, 24, 16)
    model.save_pretrained(tmp_path)
    for chosen, widths in ({"out_indices": [-1]}, [8]), ({"out_indices": [-2, -1]}, [6, 8]):
        backbone = SeqConvBackbone.from_pretrained(tmp_path, **chosen)
        assert [m.shape[1] for m in backbone(images).feature_maps] == backbone.channels == widths
        backbone.save_pretrained(tmp_path / "again")
        assert SeqConvBackbone.from_pretrained(tmp_path / "again").channels == widths


def test_pixels_take_the_dtype_of_the_model():
    model, images = classifier(), torch.randn(1, 3, 24, 16)
    narrow = classifier().bfloat16()
    assert narrow(images).logits.dtype == torch.bfloat16
    assert_near(narrow(images).logits, narrow(images.bfloat16()).logits)
    assert_near(model(images.double()).logits, model(images).logits)


@pytest.mark.slow
@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("mixer", ["vision_lstm", "global_filter", "slab"])
def test_models_export_with_an_open_number_of_images(mixer):
    options = {"mixer": mixer, "d_model": 8, "depth": 1, "image_size": 16, "patch_size": 4}
    options["mixer_options"] = {"size": 4} if mixer == "global_filter" else {"num_heads": 2}
    config = SeqConvVisionConfig(backbone_name="plain_2d", backbone_options=options, num_labels=2)
    model, images = SeqConvVisionForImageClassification(config).eval(), torch.randn(2, 3, 16, 16)
    sizes = {"pixel_values": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (), {"pixel_values": images}, dynamic_shapes=sizes, strict=False).module()
    more = torch.randn(5, 3, 16, 16)
    assert_near(program(pixel_values=more).logits, model(more).logits)


OPEN = {
    "vil": ("plain_2d", {"mixer": "vision_lstm", "mixer_options": {"num_heads": 2}}),
    "vmamba": ("hierarchical", {"mixer": "ss2d", "mixer_options": {"d_state": 1}}),
    "mobile_mamba": ("hierarchical", {"mixer": "mobile_mamba"}),
    "hornet_gf": ("hierarchical", {"mixer": "gnconv", "mixer_options": {"global_filter": [8, 8]}}),
    "swin": ("hierarchical", {"mixer": "shifted_window", "mixer_options": {"num_heads": 2, "window": 2, "shift": 1}}),
    "vig": ("hierarchical", {"mixer": "vig", "mixer_options": {"num_heads": 2}}),
}
PLAIN, STAGES = {"d_model": 8, "depth": 1, "image_size": 16, "patch_size": 4}, {"dims": [8, 16], "depths": [1, 1]}


@pytest.mark.slow
@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize("name", OPEN)
def test_models_export_with_open_heights_and_widths(name):
    backbone, options = OPEN[name]
    options = {**(PLAIN if backbone == "plain_2d" else STAGES), **options}
    config = SeqConvVisionConfig(backbone_name=backbone, backbone_options=options, num_labels=2)
    model = SeqConvVisionForImageClassification(config).eval()
    sizes = {"pixel_values": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
    example = {"pixel_values": torch.randn(2, 3, 40, 56)}
    program = torch.export.export(model, (), example, dynamic_shapes=sizes, strict=False).module()
    for size in ((64, 32), (33, 75), (32, 32)):  # the last has the grids that positions and filters are stored for
        other = torch.randn(3, 3, *size)
        assert_near(program(pixel_values=other).logits, model(other).logits)
