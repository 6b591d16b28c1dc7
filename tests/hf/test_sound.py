"""Heads for every frame of sound: frame labels and CTC, against losses computed per recording and transformers' own."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import config
from transformers import (
    ASTFeatureExtractor,
    AutoFeatureExtractor,
    AutoModelForAudioFrameClassification,
    AutoModelForCTC,
    Speech2TextFeatureExtractor,
    Trainer,
    TrainingArguments,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    pipeline,
)
from transformers.modeling_outputs import CausalLMOutput, TokenClassifierOutput

from seqconv import SeqConvForAudioClassification, SeqConvForAudioFrameClassification, SeqConvForCTC
from seqconv.hf.feature_extractor import audio_feature_extractor

SIZES = {
    "frame_size": 40,
    "frame_stride": 20,
    "num_audio_features": 6,
    "num_labels": 3,
    "position_embedding": "learned",
}
EXTRACTORS = {"waveform": Wav2Vec2FeatureExtractor, "features": Speech2TextFeatureExtractor}
NAMES = {"waveform": "input_values", "features": "input_features"}
inputs_of = pytest.mark.parametrize("audio_input", EXTRACTORS)


def build(kind, audio_input, **options):
    torch.manual_seed(0)
    return kind(config(audio_input=audio_input, **SIZES, **options)).eval()


def recordings():
    return [np.sin(np.arange(count) / period).astype(np.float32) for count, period in ((1600, 7), (900, 5), (30, 3))]


def extracted(model, sounds):
    extractor = audio_feature_extractor(model.config)
    assert isinstance(extractor, EXTRACTORS[model.config.audio_input])
    return extractor(sounds, sampling_rate=16000, padding=True, return_tensors="pt")


def padded(model, lengths=(1600, 900, 30)):
    """Inputs of several lengths, padded on the right, by their name."""
    generator = torch.Generator().manual_seed(1)
    features = model.config.audio_input == "features"
    lengths = [max(1, n // 100) for n in lengths] if features else list(lengths)
    x = torch.randn(len(lengths), max(lengths), *[6] * features, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    x = x * (mask[..., None] if features else mask)
    return {NAMES[model.config.audio_input]: x, "attention_mask": mask.long()}, lengths


def alone(inputs, row, length):
    return {name: x[row : row + 1, :length] for name, x in inputs.items() if name != "attention_mask"}


@inputs_of
def test_frames_of_padded_recordings_are_those_of_each_alone(audio_input):
    for kind in (SeqConvForCTC, SeqConvForAudioFrameClassification):
        model = build(kind, audio_input, mixer="mamba", bidirectional=True)
        inputs, lengths = padded(model)
        logits = model(**inputs).logits
        counts = model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(-1)).tolist()
        for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
            one = model(**alone(inputs, row, length)).logits
            assert one.shape[1] == count
            torch.testing.assert_close(logits[row : row + 1, :count], one, rtol=1e-4, atol=1e-4)


@inputs_of
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_ctc_loss_of_a_batch_is_made_of_those_of_its_recordings(audio_input, reduction):
    model = build(SeqConvForCTC, audio_input, ctc_loss_reduction=reduction, pad_token_id=2)
    inputs, lengths = padded(model, (1600, 900, 600))
    labels = torch.tensor([[3, 4, 4, 5], [6, 1, -100, -100], [7, 2, 2, 2]])
    output = model(**inputs, labels=labels)
    assert type(output) is CausalLMOutput
    losses, counts = [], torch.tensor([4, 2, 1])
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        logits = model(**alone(inputs, row, length)).logits[0]
        target = labels[row, :count]
        losses.append(F.ctc_loss(logits.log_softmax(-1), target, torch.tensor(len(logits)), count, 2, reduction="sum"))
    losses = torch.stack(losses)
    want = {"sum": losses.sum(), "mean": (losses / counts).mean(), "none": losses}[reduction]
    torch.testing.assert_close(output.loss, want, rtol=1e-4, atol=1e-4)


def test_ctc_loss_is_that_of_transformers():
    own = pytest.importorskip("transformers.loss.loss_ctc").ForCTCLoss
    model = build(SeqConvForCTC, "waveform")
    assert model.config.pad_token_id == 0, "the blank"
    inputs, _ = padded(model)
    labels = torch.tensor([[3, 4, 4, 5], [6, 1, -100, -100], [7, 0, 0, 0]])
    output = model(**inputs, labels=labels)
    frames = model._get_feat_extract_output_lengths(inputs["attention_mask"].sum(-1))
    assert torch.equal(output.loss, own(output.logits, labels, frames, 0, reduction="sum"))
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_ctc_with_more_labels_than_frames():
    labels = torch.tensor([[3, 4, 3, 4, 3]])
    for zero, want in ((False, torch.inf), (True, 0.0)):
        model = build(SeqConvForCTC, "waveform", ctc_zero_infinity=zero)
        assert model(torch.randn(1, 60), labels=labels).loss == want


@pytest.mark.parametrize("audio_input", EXTRACTORS)
def test_frame_labels_as_numbers_and_as_transformers_takes_them(audio_input):
    model = build(SeqConvForAudioFrameClassification, audio_input)
    inputs, lengths = padded(model)
    logits = model(**inputs).logits
    labels = torch.randint(0, 3, logits.shape[:2], generator=torch.Generator().manual_seed(0))
    output = model(**inputs, labels=labels)
    assert type(output) is TokenClassifierOutput
    counts = model._get_feat_extract_output_lengths(torch.tensor(lengths))
    rows = [(logits[i, :n], labels[i, :n]) for i, n in enumerate(counts)]
    want = F.cross_entropy(torch.cat([z for z, _ in rows]), torch.cat([y for _, y in rows]))
    torch.testing.assert_close(output.loss, want)
    torch.testing.assert_close(model(**inputs, labels=F.one_hot(labels, 3)).loss, want)
    ignored = labels.masked_fill(torch.arange(labels.shape[1]) > 0, -100)
    torch.testing.assert_close(model(**inputs, labels=ignored).loss, F.cross_entropy(logits[:, 0], labels[:, 0]))


def test_wrong_arguments_raise():
    frames, ctc = (build(kind, "waveform") for kind in (SeqConvForAudioFrameClassification, SeqConvForCTC))
    sound = torch.randn(2, 100)
    with pytest.raises(ValueError, match=r"labels of shape \(2, 100\); wanted \(batch, frames\) = \(2, 4\)"):
        frames(sound, labels=torch.zeros(2, 100).long())
    with pytest.raises(ValueError, match=r"labels of shape \(2, 3\) up to 17; wanted \(batch, tokens\) of ids below"):
        ctc(sound, labels=torch.full((2, 3), 17))
    with pytest.raises(ValueError, match=r"pad_token_id=17, the blank; wanted ids below vocab_size=17"):
        SeqConvForCTC(config(pad_token_id=17))
    with pytest.raises(ValueError, match="modality='text'; wanted modality 'audio'"):
        SeqConvForCTC(config(modality="text"))
    with pytest.raises(ValueError, match=r"ctc_loss_reduction.*did you mean 'mean'"):
        config(ctc_loss_reduction="meen")
    with pytest.raises(ValueError, match="received input_ids; wanted input_values"):
        ctc(input_ids=torch.zeros(2, 4).long())
    features = build(SeqConvForCTC, "features")
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    with pytest.raises(ValueError, match="features padded on the left; wanted sound from the first frame"):
        features(input_features=torch.randn(2, 3, 6), attention_mask=mask, labels=torch.ones(2, 1).long())


@inputs_of
def test_sound_of_several_channels_raises(audio_input):
    model, sound = build(SeqConvForCTC, audio_input), recordings()[0]
    extract = audio_feature_extractor(model.config)
    for stereo in ([np.stack([sound, sound], axis=1)], [sound, np.stack([sound, sound])]):
        with pytest.raises(ValueError, match=r"recording of shape \(.*wanted one channel.*mean of the channels"):
            extract(stereo, sampling_rate=16000)
    if audio_input == "waveform":
        with pytest.raises(ValueError, match=r"shape \(1, 2, 1600\); wanted \(batch, samples\).*average the channels"):
            model(torch.randn(1, 2, 1600))


def transcribed(model, tokenizer):
    """Recordings with a text each, and what makes a batch of them."""
    texts = ["abc", "bad", "a", "hag"]
    generator = np.random.default_rng(0)
    data = [{"sound": generator.normal(size=n), "text": t} for n, t in zip((1600, 900, 700, 1200), texts, strict=True)]

    def collate(items):
        batch = extracted(model, [item["sound"] for item in items])
        ids = tokenizer([item["text"] for item in items], padding=True, return_tensors="pt").input_ids
        return {**batch, "labels": ids.masked_fill(ids == 0, -100)}

    return data, collate


NEW_NAME = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
CHECKPOINTING = "activation_checkpointing" if NEW_NAME else "gradient_checkpointing"


@pytest.mark.parametrize("options", [{CHECKPOINTING: True}, {"bf16": True}], ids=["checkpointing", "bf16"])
def test_a_trainer_resumes_to_the_same_weights(tmp_path, options):
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))

    def train(resume=None):
        model = build(SeqConvForCTC, "waveform", vocab_size=len(letters), mixer="mamba")
        data, collate = transcribed(model, tokenizer)
        arguments = TrainingArguments(
            str(tmp_path / "out"), per_device_train_batch_size=2, max_steps=3, save_steps=2, report_to=[],
            remove_unused_columns=False, use_cpu=True, disable_tqdm=True, **options,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, data_collator=collate).train(resume_from_checkpoint=resume)
        return model

    whole, resumed = train(), train(str(tmp_path / "out" / "checkpoint-2"))
    fresh = build(SeqConvForCTC, "waveform", vocab_size=len(letters), mixer="mamba")
    for p, q, first in zip(whole.parameters(), resumed.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(p, q)
        assert not torch.equal(p, first)


@inputs_of
def test_speech_recognition_pipeline(audio_input, tmp_path):
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    model = build(SeqConvForCTC, audio_input, vocab_size=len(letters))
    for part in (model, tokenizer, audio_feature_extractor(model.config)):
        part.save_pretrained(tmp_path)
    recognise = pipeline("automatic-speech-recognition", str(tmp_path), device="cpu")
    sound = recordings()[0]
    logits = model(**extracted(model, [sound])).logits
    found = recognise(sound, return_timestamps="char")
    assert found["text"] == tokenizer.decode(logits.argmax(-1)[0])
    assert found["chunks"][-1]["timestamp"][1] <= 0.1
    chunks = recognise(sound, chunk_length_s=0.06)
    assert isinstance(chunks["text"], str)
    assert "pipeline_tag: automatic-speech-recognition" in (tmp_path / "README.md").read_text()
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), EXTRACTORS[audio_input])


@pytest.mark.parametrize("kind", [SeqConvForCTC, SeqConvForAudioFrameClassification])
def test_heads_of_frames_start_from_a_classifier(kind, tmp_path):
    build(SeqConvForAudioClassification, "features").save_pretrained(tmp_path)
    auto = AutoModelForCTC if kind is SeqConvForCTC else AutoModelForAudioFrameClassification
    model = auto.from_pretrained(tmp_path)
    assert type(model) is kind
    model.freeze_base_model()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} <= {"lm_head", "classifier"}


def test_spectrograms_of_a_fixed_length_by_ast():
    model = build(SeqConvForAudioClassification, "features")
    extractor = ASTFeatureExtractor(num_mel_bins=6, max_length=20)
    inputs = extractor(recordings()[:2], sampling_rate=16000, return_tensors="pt")
    assert model(**inputs).logits.shape == (2, 3)
