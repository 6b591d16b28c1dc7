"""Pipelines of transformers read a saved folder: text, images and sound, with tokenizers and processors made here."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Wav2Vec2FeatureExtractor, pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import seqconv

SPECIAL = ["[PAD]", "[UNK]", "[MASK]", "[EOS]"]
WORDS = [*SPECIAL, "the", "a", "long", "short", "sequence", "model", "reads", "writes", "state", "scan"]


@pytest.fixture
def tokenizer():
    """One token per word."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        eos_token="[EOS]",
        padding_side="left",
    )


def saved(folder, name, processor, **options):
    torch.manual_seed(0)
    model = getattr(seqconv, name)(config(vocab_size=len(WORDS), **options))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model.eval()


def test_text_generation(tmp_path, tokenizer):
    model = saved(tmp_path, "SeqConvForCausalLM", tokenizer)
    write = pipeline("text-generation", str(tmp_path), device="cpu")
    prompt = "the long model reads"
    options = {"max_new_tokens": 5, "do_sample": False}
    text = write(prompt, **options)[0]["generated_text"]
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    want = model.generate(ids, pad_token_id=0, **options)
    assert text == prompt + tokenizer.decode(want[0, 4:], skip_special_tokens=True)
    both = write([prompt, "a state"], batch_size=2, **options)
    assert both[0][0]["generated_text"] == text
    assert both[1][0]["generated_text"] == write("a state", **options)[0]["generated_text"]


def test_fill_mask(tmp_path, tokenizer):
    saved(tmp_path, "SeqConvForMaskedLM", tokenizer, bidirectional=True)
    guesses = pipeline("fill-mask", str(tmp_path), device="cpu")("the long [MASK] reads")
    assert len(guesses) == 5
    assert guesses[0]["score"] >= guesses[1]["score"]
    assert guesses[0]["token_str"] in WORDS


def test_text_and_token_classification(tmp_path, tokenizer):
    labels = {"num_labels": 3, "id2label": {0: "no", 1: "so", 2: "yes"}}
    saved(tmp_path / "text", "SeqConvForSequenceClassification", tokenizer, **labels)
    found = pipeline("text-classification", str(tmp_path / "text"), device="cpu")(["the model", "a long state"])
    assert all(item["label"] in ("no", "so", "yes") for item in found)
    saved(tmp_path / "tokens", "SeqConvForTokenClassification", tokenizer, **labels)
    tags = pipeline("token-classification", str(tmp_path / "tokens"), device="cpu")("the long model")
    assert [tag["word"] for tag in tags] == ["the", "long", "model"]


def test_image_classification(tmp_path):
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    model = saved(tmp_path, "SeqConvForImageClassification", processor, image_size=8, num_labels=3)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    found = pipeline("image-classification", str(tmp_path), device="cpu")(picture, top_k=3)
    scores = model(processor(picture, return_tensors="pt")["pixel_values"]).logits.softmax(-1)[0]
    assert {item["label"]: item["score"] for item in found} == pytest.approx(
        {f"LABEL_{i}": float(score) for i, score in enumerate(scores.detach())}, rel=1e-5
    )


def test_audio_classification(tmp_path):
    processor = Wav2Vec2FeatureExtractor(sampling_rate=8000, return_attention_mask=True)
    options = {"frame_size": 50, "frame_stride": 25, "num_labels": 3}
    model = saved(tmp_path, "SeqConvForAudioClassification", processor, **options)
    sound = np.sin(np.arange(800) / 7).astype(np.float32)
    found = pipeline("audio-classification", str(tmp_path), device="cpu")(sound, top_k=3)
    inputs = processor(sound, sampling_rate=8000, return_tensors="pt")
    scores = model(**inputs).logits.softmax(-1)[0]
    assert {item["label"]: item["score"] for item in found} == pytest.approx(
        {f"LABEL_{i}": float(score) for i, score in enumerate(scores.detach())}, rel=1e-5
    )
