"""Published models for transformers: the same outputs, through transformers' own classes."""

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForVideoClassification

from golden_cases import load_case
from seqconv import SeqConvVisionConfig, create_model, from_original, to_transformers
from seqconv.vision.video.backbone import VideoBackbone, VideoClassifier

SMALL = {"drop_path": 0.1, "in_channels": 1}


def test_a_classifier_with_its_weights():
    torch.manual_seed(0)
    model, images = create_model("msvmamba_nano", num_classes=3, **SMALL).eval(), torch.randn(2, 1, 32, 32)
    made = to_transformers(model, id2label={0: "a", 1: "b", 2: "c"})
    assert made.config.backbone_name == "msvmamba_nano"
    assert (made.config.num_channels, made.config.drop_path, made.config.num_labels) == (1, 0.1, 3)
    assert made.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert not made.training
    with torch.no_grad():
        assert torch.equal(made(images).logits, model(images))
    with torch.device("meta"):
        again = AutoModelForImageClassification.from_config(made.config)
    assert type(again) is type(made)
    features = to_transformers(create_model("msvmamba_nano", features_only=True, **SMALL))
    assert isinstance(features, AutoModel.from_config(features.config).__class__)


def test_a_classifier_of_videos_with_its_weights():
    """Frames come first in transformers, channels in the original."""
    torch.manual_seed(0)
    sizes = {"image_size": 12, "patch_size": 4, "num_frames": 4, "tubelet_size": 2}
    backbone = VideoBackbone("vim", d_model=8, depth=2, mixer_options={"halve": False}, **sizes)
    model, videos = VideoClassifier(backbone, 3).double().eval(), torch.randn(2, 3, 4, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made = to_transformers(model)
    torch.testing.assert_close(made(videos.transpose(1, 2)).logits, model(videos), rtol=1e-12, atol=1e-12)
    with torch.device("meta"):
        assert type(AutoModelForVideoClassification.from_config(made.config)) is type(made)


def test_frames_that_no_tubelet_holds_are_left_out():
    """Five frames in tubelets of two: both read four."""
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 4, "num_frames": 5, "tubelet_size": 2}
    model = VideoClassifier(VideoBackbone("vim", d_model=8, depth=1, **sizes), 3).eval()
    made, videos = to_transformers(model), torch.randn(2, 3, 5, 8, 8)
    assert made.config.num_frames == 4
    torch.testing.assert_close(made(videos.transpose(1, 2)[:, :4]).logits, model(videos))


def test_published_video_models_are_told_by_name():
    made = to_transformers(create_model("videomamba_tiny", num_classes=2, image_size=16, num_frames=2))
    assert made(torch.randn(1, 2, 3, 16, 16)).logits.shape == (1, 2)


def test_errors_say_what_to_do(unannotated):
    case = load_case("vision/vmamba_vssm")
    model = from_original(case.meta["original"], case.group("param"))
    with torch.device("meta"):
        videos = create_model("videomamba_tiny", features_only=True)
    cases = {
        r"a model without a name.*name='vmamba_tiny'": lambda: to_transformers(model),
        r"model 'vmamba_tny'.*did you mean 'vmamba_tiny'": lambda: to_transformers(model, "vmamba_tny"),
        r"a VideoBackbone.*a classifier of videos": lambda: to_transformers(videos),
        r"backbone_name='videomamba_tiny'.*to_transformers": lambda: SeqConvVisionConfig(
            backbone_name="videomamba_tiny"
        ),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
