"""Image models with feature maps: Auto classes, UperNet, segmentation and classification on real pictures."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoBackbone, AutoConfig, UperNetConfig, UperNetForSemanticSegmentation, pipeline

import seqconv
from golden_cases import GOLDEN
from seqconv import SeqConvVisionConfig
from seqconv.hf import VISION_AUTO
from seqconv.hf.vision.configuration import PLAIN_MAPS

HIERARCHICAL = {
    "backbone_name": "hierarchical",
    "backbone_options": {
        "mixer": "ss2d", "dims": [8, 12, 16, 20], "depths": [1, 1, 1, 1],
        "mixer_options": {"d_state": 1, "gate": "none"}, "stem": "conv", "downsampling": "conv",
    },
}  # fmt: skip
PLAIN = {
    "backbone_name": "plain",
    "backbone_options": {"mixer": "vim", "d_model": 12, "depth": 5, "image_size": 32, "patch_size": 8},
}
KINDS = {"hierarchical": HIERARCHICAL, "plain": PLAIN}


def config(kind="hierarchical", **options):
    return SeqConvVisionConfig(**{**KINDS[kind], "decoder_hidden_size": 16, "num_labels": 3, **options})


def picture(name):
    return Image.open(GOLDEN / "pictures" / f"{name}.png")


def pictures():
    """Two photographs of 64 by 64 pixels, and the brighter half of their pixels as a mask."""
    images = [np.array(picture(name)) for name in ("astronaut", "coffee")]
    pixels = torch.stack([torch.from_numpy(image).movedim(-1, 0) / 127.5 - 1 for image in images])
    grey = pixels.mean(1)
    return pixels, (grey > grey.flatten(1).median(1).values[:, None, None]).long()


def train(model, steps=3, **inputs):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("auto", VISION_AUTO)
def test_every_auto_class_builds_saves_and_reads(tmp_path, auto, kind):
    torch.manual_seed(0)
    sound = "Audio" in auto
    made = getattr(transformers, auto).from_config(config(kind, num_channels=1 if sound else 3)).eval()
    assert type(made) is getattr(seqconv, VISION_AUTO[auto])
    made.save_pretrained(tmp_path)
    read = type(made).from_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == read.config.to_dict()
    pixels = pictures()[0][:, 0] if sound else pictures()[0]
    first, second = made(pixels, return_dict=False), read(pixels, return_dict=False)
    for a, b in zip(torch.utils._pytree.tree_leaves(first), torch.utils._pytree.tree_leaves(second), strict=True):
        assert torch.equal(a, b)
    assert "pip install seqconv" in (tmp_path / "README.md").read_text()


def test_checkpoints_are_read_with_other_heads(tmp_path):
    classifier = seqconv.SeqConvVisionForImageClassification(config())
    classifier.save_pretrained(tmp_path)
    wanted = classifier.backbone.model.state_dict()
    for name in ("SeqConvBackbone", "SeqConvVisionModel", "SeqConvForSemanticSegmentation"):
        model = getattr(seqconv, name).from_pretrained(tmp_path)
        inner = model.backbone.model if name.endswith("Segmentation") else model.model
        assert all(torch.equal(inner.state_dict()[key], tensor) for key, tensor in wanted.items())
        assert all(p.isfinite().all() for p in model.parameters())


def test_feature_maps_are_those_that_are_asked_for():
    every = AutoBackbone.from_config(config())
    assert every.channels == [8, 12, 16, 20]
    maps = every(pictures()[0]).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2)]
    some = AutoBackbone.from_config(config(out_features=["stage2", "stage3"]))
    assert some.out_indices == [1, 2]
    output = some(pictures()[0], output_hidden_states=True)
    assert [m.shape[1] for m in output.feature_maps] == some.channels == [12, 16]
    assert len(output.hidden_states) == 2
    plain = config("plain")
    assert plain.out_indices == [0, 1, 2, 4]
    assert len(plain.out_features) == PLAIN_MAPS
    assert AutoBackbone.from_config(plain)(pictures()[0]).feature_maps[0].shape == (2, 12, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_upernet_trains_and_segments_on_the_backbone(tmp_path, kind):
    torch.manual_seed(0)
    upernet = UperNetConfig(
        backbone_config=config(kind), hidden_size=16, num_labels=2, auxiliary_channels=8, auxiliary_in_channels=None
    )
    upernet.auxiliary_in_channels = AutoBackbone.from_config(config(kind)).channels[2]
    model = UperNetForSemanticSegmentation(upernet).train()
    pixels, labels = pictures()
    losses = train(model, pixel_values=pixels, labels=labels)
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    read = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    assert type(read.backbone) is seqconv.SeqConvBackbone
    with torch.no_grad():
        logits = read(pixels[:, :, :48]).logits
        torch.testing.assert_close(logits, model(pixels[:, :, :48]).logits)
    assert logits.shape == (2, 2, 48, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_the_backbone_is_trained(kind):
    model = AutoBackbone.from_config(config(kind))
    sum(m.square().sum() + m.sum() for m in model(pictures()[0]).feature_maps).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_segmentation_learns_a_picture_and_gives_it_to_the_pipeline():
    torch.manual_seed(0)
    model = seqconv.SeqConvForSemanticSegmentation(config(num_labels=2, id2label={0: "dark", 1: "bright"}))
    pixels, labels = pictures()
    losses = train(model.train(), 12, pixel_values=pixels, labels=labels)
    assert losses[-1] < 0.8 * losses[0]
    processor = transformers.SegformerImageProcessor(
        size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    segment = pipeline("image-segmentation", model=model.eval(), image_processor=processor)
    found = segment(picture("astronaut"))
    assert {part["label"] for part in found} <= {"dark", "bright"}
    assert all(part["mask"].size == (64, 64) for part in found)


def test_features_for_the_pipeline():
    model = seqconv.SeqConvVisionModel(config()).eval()
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    extract = pipeline("image-feature-extraction", model=model, image_processor=processor)
    found = torch.tensor(extract(picture("coffee"), pool=True))
    assert found.shape == (1, 20)
    output = model(pictures()[0], output_hidden_states=True)
    torch.testing.assert_close(
        model.model.norm(output.last_hidden_state.movedim(1, -1)).mean((1, 2)), output.pooler_output
    )
    assert [h.shape[1] for h in output.hidden_states] == [8, 12, 16, 20]


def test_classification_trains_with_checkpointing_as_without():
    losses = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = seqconv.SeqConvVisionForImageClassification(config()).train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.backbone.model.gradient_checkpointing
        losses.append(train(model, pixel_values=pictures()[0], labels=torch.tensor([0, 2])))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_published_names_and_errors():
    named = SeqConvVisionConfig(backbone_name="vmamba_small")
    assert named.out_features == ["stage1", "stage2", "stage3", "stage4"]
    for name in ("vim_tiny", "vil_tiny"):
        assert SeqConvVisionConfig(backbone_name=name).out_indices == [5, 11, 17, 23]
    options = {"mixer": "vision_lstm", "d_model": 8, "depth": 2, "image_size": 16, "patch_size": 4, "pooling": "ends"}
    ends = AutoBackbone.from_config(config(backbone_name="plain_2d", backbone_options=options, out_indices=[1]))
    assert ends.channels == [8]
    assert ends(pictures()[0][..., :16, :16]).feature_maps[0].shape == (2, 8, 4, 4)
    model = seqconv.SeqConvForSemanticSegmentation(config())
    pixels, labels = pictures()
    cases = {
        r"backbone_name 'vmamba_smal'.*did you mean 'vmamba_small'": lambda: config(backbone_name="vmamba_smal"),
        r"options with a 'mixer'": lambda: config(backbone_options={}),
        r"backbone_options with 'in_channels'.*num_channels": lambda: config(backbone_options={"in_channels": 1}),
        r"num_channels=0": lambda: config(num_channels=0),
        r"out_features must be a subset": lambda: config(out_features=["stage9"]),
        r"no pixel_values": lambda: model(),
        r"the arguments attention_mask": lambda: model(pixels, attention_mask=labels),
        r"labels of shape \(2, 64, 63\).*one class for each pixel": lambda: model(pixels, labels=labels[..., 1:]),
        r"images of shape \(2, 1, 64, 64\).*grey": lambda: model(pixels[:, :1]),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
