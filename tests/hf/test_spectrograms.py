"""Classifiers of spectrograms in patches, from recordings to labels, and recordings that nothing can be made of."""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny import config
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING

from seqconv import SeqConvForAudioClassification, SeqConvForAudioFrameClassification
from seqconv.hf.feature_extractor import audio_feature_extractor

ROOT = Path(__file__).parents[2]
SPECTROGRAM = {"audio_input": "spectrogram", "num_audio_features": 12, "patch_size": 4, "num_labels": 3}


def build(**options):
    torch.manual_seed(0)
    return SeqConvForAudioClassification(config(**{**SPECTROGRAM, **options})).eval()


def sound(samples=4000, period=7):
    return np.sin(np.arange(samples) / period).astype(np.float32)


def test_patches_are_read_frame_by_frame():
    model = build(patch_stride=2)
    embed = model.model.embed_frames
    x = torch.randn(2, 11, 12)
    patches, mask = embed(x, None)
    assert mask is None
    assert patches.shape == (2, 4 * 5, 8)
    t, r = 2, 3
    patch = x[:, 2 * t : 2 * t + 4, 2 * r : 2 * r + 4].flatten(1)
    torch.testing.assert_close(patches[:, t * 5 + r], embed.projection(patch) + embed.band_embedding.weight[r])


def test_the_vectors_of_bands_are_called_as_a_module():
    embed, called = build().model.embed_frames, []
    embed.band_embedding.register_forward_hook(lambda *_: called.append(True))  # as adapters and offloading act
    embed(torch.randn(1, 8, 12), None)
    assert called


@pytest.mark.parametrize("options", [
    {"mixer": "vim", "pooling": "cls", "cls_position": "middle", "norm": "rms"},
    {"mixer": "s4d", "bidirectional": True, "position_embedding": "learned", "max_position_embeddings": 24},
], ids=["vim", "s4d"])  # fmt: skip
def test_padded_recordings_are_classified_as_each_alone(options):
    model = build(**options).double()
    x, mask = torch.randn(3, 33, 12, dtype=torch.float64), torch.ones(3, 33, dtype=torch.long)
    mask[1, 18:], mask[2, 3:] = 0, 0
    logits = model(input_features=x * mask[..., None], attention_mask=mask).logits
    for row, frames in enumerate((33, 18, 3)):
        torch.testing.assert_close(logits[row : row + 1], model(input_features=x[row : row + 1, :frames]).logits)


def test_positions_end_where_their_table_ends():
    model = build(position_embedding="learned", max_position_embeddings=6)
    assert model(input_features=torch.randn(1, 8, 12)).logits.shape == (1, 3)
    with pytest.raises(ValueError, match=r"position 8; wanted positions below 6.*sinusoidal"):
        model(input_features=torch.randn(1, 12, 12))


@pytest.mark.parametrize("max_length", [None, 30])
def test_a_recording_in_a_file_is_classified_by_the_pipeline(tmp_path, max_length):
    model = build(id2label={0: "no", 1: "so", 2: "yes"})
    extractor = audio_feature_extractor(model.config, sampling_rate=8000, max_length=max_length)
    model.save_pretrained(tmp_path)
    extractor.save_pretrained(tmp_path)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((sound() * 32767).astype("<i2").tobytes())
    with wave.open(str(tmp_path / "sound.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        recording = {"raw": samples, "sampling_rate": file.getframerate()}
    found = pipeline("audio-classification", str(tmp_path), device="cpu")(recording, top_k=3)
    features = extractor(samples, sampling_rate=8000, return_tensors="pt")
    frames = next(iter(features.values())).shape[1]
    assert frames == (max_length or 1 + (4000 - 400) // 160)
    want = AutoModelForAudioClassification.from_pretrained(tmp_path)(**features).logits.softmax(-1)[0].tolist()
    assert {item["label"]: item["score"] for item in found} == pytest.approx(
        dict(zip(("no", "so", "yes"), want, strict=True)), rel=1e-5
    )
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is type(extractor)
    torch.testing.assert_close(again(samples, sampling_rate=8000, return_tensors="pt"), features)


@pytest.mark.parametrize("kind", ["waveform", "features", "spectrogram"])
def test_empty_sound_and_other_sampling_rates_raise(kind):
    model = build(audio_input=kind)
    least = 1 if kind == "waveform" else 400
    for length in (None, 30) if kind != "waveform" else (None,):
        extractor = audio_feature_extractor(model.config, sampling_rate=8000, max_length=length)
        for recordings in (sound(0), [sound(), sound(0)]):
            with pytest.raises(ValueError, match=rf"an empty recording; wanted at least {least} samples"):
                extractor(recordings, sampling_rate=8000)
        with pytest.raises(ValueError, match=r"sampling rate of 8000"):
            extractor(sound(), sampling_rate=16000)
    empty = torch.zeros(2, 0) if kind == "waveform" else torch.zeros(2, 0, 12)
    with pytest.raises(ValueError, match=r"empty sound, of shape \(2, 0.*leave empty recordings out"):
        model(empty)


def test_wrong_arguments_raise():
    model = build()
    mask = torch.ones(1, 8, dtype=torch.long)
    mask[0, 0] = 0
    for call, message in (
        (lambda: model(input_features=torch.zeros(1, 8, 13)), r"\(1, 8, 13\); wanted \(batch, frames, 12\)"),
        (lambda: model(input_features=torch.zeros(1, 8, 12), attention_mask=mask), r"frames padded on the left"),
        (lambda: config(**{**SPECTROGRAM, "patch_size": 13}), r"patch_size=13; wanted at most num_audio_features"),
        (lambda: config(**{**SPECTROGRAM, "patch_stride": 0}), r"patch_stride=0"),
        (lambda: SeqConvForAudioFrameClassification(config(**SPECTROGRAM)), r"wanted frames over all bands"),
        (lambda: audio_feature_extractor(model.config)(sound(399), sampling_rate=16000), r"recording of 399 samples"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


READ_AGAIN = """
import sys
import numpy as np
from transformers import AutoFeatureExtractor
import seqconv
for folder in sys.argv[1:]:
    extract = AutoFeatureExtractor.from_pretrained(folder)
    values = extract(np.zeros(4000, np.float32), sampling_rate=16000, return_tensors="np")
    assert np.isfinite(next(iter(values.values()))).all(), folder
    try:
        extract(np.zeros(0, np.float32), sampling_rate=16000)
    except ValueError as error:
        assert "an empty recording" in str(error)
    else:
        raise AssertionError(folder)
"""


def test_saved_extractors_are_read_as_what_they_are_and_earlier_folders_too(tmp_path, monkeypatch):
    folders = []
    for kind, length in (("waveform", None), ("features", None), ("spectrogram", 30)):
        folders.append(str(tmp_path / kind))
        audio_feature_extractor(build(audio_input=kind).config, max_length=length).save_pretrained(folders[-1])
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    subprocess.run([sys.executable, "-c", READ_AGAIN, *folders], check=True, env={**os.environ, "PYTHONPATH": paths})
    monkeypatch.setattr(FEATURE_EXTRACTOR_MAPPING, "_extra_content", {})
    mel = AutoFeatureExtractor.from_pretrained(folders[1], trust_remote_code=True)  # as where seqconv is not imported
    assert type(mel) is type(audio_feature_extractor(build(audio_input="features").config))
    file = tmp_path / "features" / "preprocessor_config.json"
    saved = {k: v for k, v in json.loads(file.read_text()).items() if k != "auto_map"}
    file.write_text(json.dumps({**saved, "feature_extractor_type": "Speech2TextFeatureExtractor"}))
    assert type(AutoFeatureExtractor.from_pretrained(folders[1])) is transformers.Speech2TextFeatureExtractor
