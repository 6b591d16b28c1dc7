"""Published models of spectrograms in transformers: Audio Mamba's outputs, its pipeline, bad calls."""

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, AutoModelForAudioClassification, pipeline

from golden_cases import load_case
from seqconv import (
    SeqConvVisionConfig,
    SeqConvVisionForAudioClassification,
    create_model,
    from_original,
    to_transformers,
)
from seqconv.hf.feature_extractor import audio_feature_extractor
from seqconv.vision.backbones.backbone import SpectrogramClassifier

PLAIN = {"mixer": "vim", "d_model": 8, "depth": 2, "image_size": [16, 24], "patch_size": 8}
LABELS = {0: "no", 1: "so", 2: "yes"}


def build(**options):
    torch.manual_seed(0)
    config = SeqConvVisionConfig(
        backbone_name="plain", backbone_options=PLAIN, num_channels=1, id2label=LABELS, **options
    )
    return SeqConvVisionForAudioClassification(config).eval()


def test_a_published_model_with_its_weights():
    torch.manual_seed(0)
    model = create_model("audio_mamba_small", num_classes=3, image_size=(16, 32)).eval()
    made = to_transformers(model, id2label=LABELS)
    assert type(made) is SeqConvVisionForAudioClassification
    assert (made.config.backbone_name, made.config.num_channels) == ("audio_mamba_small", 1)
    sound = torch.randn(2, 32, 16)
    with torch.no_grad():
        assert torch.equal(made(sound).logits, model(sound))
        assert torch.equal(made(input_features=sound[:, :20]).logits, model(sound[:, :20])), "another length"
    with torch.device("meta"):
        assert type(AutoModelForAudioClassification.from_config(made.config)) is type(made)
    extractor = audio_feature_extractor(made.config)
    assert (extractor.num_mel_bins, extractor.max_length) == (16, 32)
    bare = SeqConvVisionConfig(backbone_name="audio_mamba_base", num_channels=1)
    with pytest.warns(UserWarning, match="mel filter has all zero values"):  # of transformers' AST, at 128 bands
        assert audio_feature_extractor(bare).max_length == 1024


def test_a_model_of_the_original_gives_its_numbers():
    case = load_case("vision/audio_mamba_model")
    params = {k: v.double() for k, v in case.group("param").items()}
    model = from_original(case.meta["original"], params, **case.hyper)
    assert isinstance(model, SpectrogramClassifier)
    with pytest.raises(ValueError, match=r"a model without a name.*pass name="):
        to_transformers(model)
    with pytest.raises(ValueError, match=r"tensors of the published sizes"):
        to_transformers(model, "audio_mamba_small")


@pytest.mark.parametrize("max_length", [None, 40])
def test_recordings_are_classified_by_the_pipeline(tmp_path, max_length):
    model = build()
    extractor = audio_feature_extractor(model.config, max_length=max_length)
    for part in (model, extractor):
        part.save_pretrained(tmp_path)
    classify = pipeline("audio-classification", str(tmp_path), device="cpu")
    recordings = [np.sin(np.arange(n) / 7).astype(np.float32) for n in (4000, 9000)]
    found = classify(recordings, top_k=3)
    assert isinstance(classify.feature_extractor, ASTFeatureExtractor)
    inputs = extractor(recordings, sampling_rate=16000, return_tensors="pt")
    assert inputs["input_values"].shape == (2, max_length or 24, 16)
    for row, items in zip(model(**inputs).logits.softmax(-1).tolist(), found, strict=True):
        assert {item["label"]: item["score"] for item in items} == pytest.approx(
            dict(zip(LABELS.values(), row, strict=True)), rel=1e-5
        )
    assert "pipeline_tag: audio-classification" in (tmp_path / "README.md").read_text()


def test_training_steps_and_labels():
    model, sound = build().train(), torch.randn(4, 24, 16)
    model.backbone.model.gradient_checkpointing = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(sound, labels=torch.tensor([0, 1, 2, 1])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_bad_calls_raise():
    model, mask = build(), torch.ones(1, 24)
    mask[0, 20:] = 0
    sound = torch.randn(1, 24, 16)
    colours = SeqConvVisionConfig(backbone_name="plain", backbone_options=PLAIN)
    cases = {
        r"0 spectrograms; wanted input_values": lambda: model(),
        r"2 spectrograms; wanted": lambda: model(sound, input_features=sound),
        r"spectrograms of shape \(24, 16\)": lambda: model(sound[0]),
        r"spectrograms of shape \(1, 2, 24, 16\)": lambda: model(sound[:, None].expand(-1, 2, -1, -1)),
        r"attention_mask with padding; wanted spectrograms of one length": lambda: model(sound, attention_mask=mask),
        r"spectrograms of 0 frames of 16 bands": lambda: model(sound[:, :0]),
        r"spectrograms of 3 frames of 16 bands": lambda: model(sound[:, :3]),
        r"num_channels=3; wanted spectrograms, of one channel": lambda: SeqConvVisionForAudioClassification(colours),
        r"num_channels=3.*wanted one channel": lambda: audio_feature_extractor(colours),
        r"sampling rate of 16000": lambda: audio_feature_extractor(model.config)(np.zeros(4000), sampling_rate=8000),
    }
    for pattern, use in cases.items():
        with pytest.raises(ValueError, match=pattern):
            use()
