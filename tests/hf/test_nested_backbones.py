"""Backbones inside models of transformers that rename their parameters; losses and features where nothing counts."""

import numpy as np
import pytest
import torch
import transformers
from test_vision import config, pictures
from tiny import config as sequence_config

import seqconv
from seqconv import SeqConvForAudioFrameClassification
from seqconv.hf.feature_extractor import audio_feature_extractor

PLAIN = {"d_model": 8, "depth": 1, "image_size": 16, "patch_size": 8}
MIXERS = {"attention": {"num_heads": 2}, "vim": {}}
"""One with parameters called ``o_proj``, one with ``out_proj``, at the same places."""


def detector(mixer, kind):
    backbone = seqconv.SeqConvVisionConfig(
        backbone_name="plain", backbone_options={"mixer": mixer, "mixer_options": MIXERS[mixer], **PLAIN}
    )
    sizes = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("ffn_dim", "attention_heads")}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "num_queries": 2, "num_labels": 2, "auxiliary_loss": False}
    made = getattr(transformers, f"{kind}Config")(backbone_config=backbone, d_model=8, **layers, **sizes)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForObjectDetection")(made).eval()


@pytest.mark.parametrize("kind", ["Detr", "ConditionalDetr"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_detectors_read_the_backbone_that_they_saved(tmp_path, mixer, kind):
    model = detector(mixer, kind)
    for folder in (tmp_path / "first", tmp_path / "second"):
        model.save_pretrained(folder)
        read = type(model).from_pretrained(folder)
        assert read.state_dict().keys() == model.state_dict().keys()
        assert [k for k, tensor in read.state_dict().items() if not torch.equal(tensor, model.state_dict()[k])] == []
        model = read


def test_losses_of_batches_where_nothing_counts_are_zero():
    model, (pixels, labels) = seqconv.SeqConvForSemanticSegmentation(config()), pictures()
    frames = sequence_config(audio_input="waveform", frame_size=40, frame_stride=20, num_labels=3)
    sound = SeqConvForAudioFrameClassification(frames)
    for found in (
        model(pixels, labels=torch.full_like(labels, 255)),
        sound(torch.randn(2, 80), labels=torch.full((2, 3), -100)),
    ):
        assert found.loss == 0
        found.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for m in (model, sound) for p in m.parameters())
    void = labels.clone()
    void[:, :20] = 255
    logits = torch.nn.functional.interpolate(model(pixels).logits, size=(64, 64), mode="bilinear")
    want = torch.nn.functional.cross_entropy(logits, void, ignore_index=255)
    torch.testing.assert_close(model(pixels, labels=void).loss, want)


def test_features_of_silence_are_zeros():
    extract = audio_feature_extractor(sequence_config(audio_input="features", num_audio_features=6))
    silence, noise = np.zeros(1600, np.float32), np.random.default_rng(0).standard_normal(1600).astype(np.float32)
    found = extract([silence, noise], sampling_rate=16000, return_tensors="np")["input_features"]
    assert not found[0].any()
    assert found[1].std() == pytest.approx(1, abs=0.1)
    assert np.isnan(extract([np.full(1600, np.nan)], sampling_rate=16000, return_tensors="np")["input_features"]).all()
