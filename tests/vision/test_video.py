"""Videos: the numbers of the originals, other sizes and lengths, what a block mixes, errors."""

import pytest
import torch

from golden_cases import Imported, assert_close, check_gradients, load_case
from seqconv import from_original
from seqconv.vision.video.backbone import VideoBackbone
from seqconv.vision.video.space_time import SpaceTimeBlock

MODEL = "OpenGVLab/VideoMamba:VisionMamba"
CASES = {
    "videomamba_model": MODEL,
    "video_dbm": "OpenGVLab/video-mamba-suite:mamba_new.Mamba",
    "video_spacetime_block": "OpenGVLab/video-mamba-suite:SpaceTimeBlock",
}


def check(got, want, rtol, what):
    assert_close(got, want.to(got.dtype), rtol, rtol * want.abs().max().item(), what)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_of_the_original(name):
    case = load_case(f"vision/{name}")
    imported = Imported(CASES[name], case.group("param"), case.hyper)
    x = case.tensors["in.x"].double().requires_grad_()
    y = imported(x)
    check(y, case.tensors["out.y"], 1e-9, "output")
    (y * case.tensors["cot.y"]).sum().backward()
    gradients = case.group("grad")
    check(x.grad, gradients.pop("in.x"), 1e-6, "gradient of the input")
    check_gradients(imported, {k: v.double() for k, v in gradients.items()}, 1e-6, 1e-9)


def test_a_model_is_read_from_shapes_alone():
    case = load_case("vision/videomamba_model")
    model = from_original(MODEL, {k: v.double() for k, v in case.group("param").items()})
    videos = case.tensors["in.x"].double()
    check(model(videos), case.tensors["out.y"], 1e-9, "logits")
    assert torch.equal(model.forward_features(videos), model.backbone(videos)[-1])
    assert model(videos[:0]).shape == (0, len(model.head.bias))


def test_bytes_raise(unannotated):
    with pytest.raises(ValueError, match=r"videos of dtype torch.uint8.*/ 255"):
        tiny()(torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8))


def test_models_of_images_leave_out_what_distillation_adds():
    case, original = load_case("vision/videomamba_image_model"), "OpenGVLab/VideoMamba:image_sm.VisionMamba"
    params = {k: v.double() for k, v in case.group("param").items()}
    params |= {"distill_head.0.weight": torch.ones(8), "distill_head.1.weight": torch.ones(4, 8)}
    model = from_original(original, params | {"distill_head.1.bias": torch.ones(4)})
    check(model(case.tensors["in.x"].double()), case.tensors["out.y"], 1e-9, "logits")
    with pytest.raises(ValueError, match=r"bimamba=False.*checked"):
        from_original(original, params, bimamba=False)


def tiny(**options):
    torch.manual_seed(0)
    return VideoBackbone("vim", d_model=8, depth=2, image_size=8, patch_size=4, num_frames=4, **options)


def test_other_sizes_and_lengths():
    backbone = tiny(out_indices=[0, 1], tubelet_size=2)
    with torch.no_grad():
        backbone.time_embedding.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 8))
    assert_close(backbone._times(4)[:, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]), 1e-6, 1e-6)
    first, last = backbone(torch.randn(2, 3, 9, 12, 8))
    assert first.shape == last.shape == (2, 4, 3, 2, 8)
    assert backbone.pooled(torch.randn(2, 3, 2, 4, 5)).shape == (2, 8)


def test_checkpointing_changes_no_gradient():
    backbone, videos = tiny().double(), torch.randn(1, 3, 4, 8, 8, dtype=torch.float64)
    gradients = []
    for checkpointing in (False, True):
        backbone.gradient_checkpointing = checkpointing
        backbone.zero_grad()
        backbone(videos)[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, 1e-12, 1e-14)


@pytest.mark.parametrize("style", ["frozen", "joint", "divided"])
def test_attention_stays_within_a_frame_and_time_within_a_place(style):
    torch.manual_seed(0)
    block = SpaceTimeBlock(8, places=3, num_heads=2, style=style).double().eval()
    x = torch.randn(2, 1 + 3 * 4, 8, dtype=torch.float64, requires_grad=True)
    y = block(x)
    (gradient,) = torch.autograd.grad(y[0, 1 + 2].sum(), x)  # place 0, time 2
    assert gradient[1].abs().max() == 0
    (other,) = torch.autograd.grad(block(x)[0, 1 + 2].sum(), x)
    assert torch.equal(gradient, other)
    seen = gradient[0, 1:].unflatten(0, (3, 4)).abs().sum(-1) > 0
    assert seen.all()  # through places of time 2, whose time parts depend on all times
    with torch.no_grad():
        for parameter in block.time.out_proj.parameters():
            parameter.zero_()
    (gradient,) = torch.autograd.grad(block(x)[0, 1 + 2].sum(), x)
    seen = gradient[0, 1:].unflatten(0, (3, 4)).abs().sum(-1) > 0
    assert seen.sum(0).tolist() == [0, 0, 3, 0]


def test_errors_say_what_to_do(unannotated):
    backbone, block = tiny(), SpaceTimeBlock(8, places=3, num_heads=2)
    cases = {
        r"videos of shape \(1, 4, 3, 8, 8\).*\(batch, 3, frames": lambda: backbone(torch.zeros(1, 4, 3, 8, 8)),
        r"videos of 4 frames of 3 by 8 pixels": lambda: backbone(torch.zeros(1, 3, 4, 3, 8)),
        r"image_size=2, patch_size=4": lambda: VideoBackbone("vim", d_model=8, depth=1, image_size=2, patch_size=4),
        r"12 tokens.*the 3 places": lambda: block(torch.zeros(1, 12, 8)),
        r"style 'frozn'.*did you mean 'frozen'": lambda: SpaceTimeBlock(8, places=3, num_heads=2, style="frozn"),
        r"bimamba=False.*checked": lambda: from_original(MODEL, {}, bimamba=False),
        r"use_flash_attn=True.*checked": lambda: from_original(
            CASES["video_spacetime_block"], {}, time_n=2, dim=8, num_heads=2, use_flash_attn=True
        ),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
