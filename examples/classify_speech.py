"""Train a classifier of spoken words on spectrograms, against a transformer (AST) and a convolutional network.

python examples/classify_speech.py --mixer vim --steps 400 --out outputs/words

espeak-ng says the words where it is installed, in voices and at speeds of which some are kept for the test; else a
program makes words of vowels. All three networks have about as many parameters and are trained on the same batches. In
the output folder: the model with its extractor, report.json, words.wav (test words, one after another) and words.png
(their spectrograms, with what was recognised).
"""

import io
import json
import shutil
import subprocess
import time
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn
from transformers import ASTConfig, ASTForAudioClassification, Trainer, TrainingArguments, pipeline, set_seed

from seqconv import SeqConvConfig, SeqConvForAudioClassification, parameter_groups
from seqconv.hf.feature_extractor import audio_feature_extractor

RATE = 22050
"""Samples per second, as espeak-ng speaks."""

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029")
SPEAKERS = ("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4")
TEST_SPEAKERS = ("m5", "f5")
"""Voices that are kept out of training."""

SPEEDS = (120, 160, 200)

VOWELS = {"a": (800, 1200), "e": (500, 1900), "i": (280, 2300), "o": (500, 900), "u": (320, 800)}
"""Frequencies of the first two resonances of the mouth, in hertz."""

BANDS, FRAMES, PATCH = 40, 128, 8
SECONDS = 0.9
"""Least length of a recording."""


@dataclass(frozen=True)
class Utterance:
    """Who says which word how."""

    word: int
    accent: str
    speaker: str
    speed: int


def spoken(utterance: Utterance) -> np.ndarray:
    """Samples in [-1, 1] of espeak-ng."""
    voice = ["-v", f"{utterance.accent}+{utterance.speaker}", "-s", str(utterance.speed)]
    command = ["espeak-ng", *voice, "--stdout", WORDS[utterance.word]]
    sound = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(sound)) as file:
        frames = file.readframes(file.getnframes())
    return np.frombuffer(frames[: len(frames) // 2 * 2], "<i2").astype(np.float32) / 32768


def synthesised(utterance: Utterance) -> np.ndarray:
    """A word of two vowels: pulses of a voice through two resonances that move from one vowel to the other."""
    pairs = [first + second for first in VOWELS for second in VOWELS if first != second]
    first, second = (np.array(VOWELS[v]) for v in pairs[utterance.word])
    low = utterance.speaker.startswith("m")
    seed = sum(map(ord, f"{utterance.accent}{utterance.speaker}"))
    pitch, size = (100 if low else 190) + seed % 30, (1.0 if low else 1.15) + seed % 7 / 70
    time = np.arange(int(RATE * 60 / utterance.speed)) / RATE
    share = np.clip(2.5 * time / time[-1] - 0.75, 0, 1)[:, None]
    phase = 2 * np.pi * np.cumsum(size * (first + share * (second - first)), 0) / RATE
    decay = np.exp(-60 * ((time * pitch) % 1) / pitch * 8)[:, None]  # every pulse rings and dies away
    sound = (decay * np.sin(phase)).sum(1) * np.hanning(len(time))
    return (0.4 * sound).astype(np.float32)


def utterances(words: int, speakers: tuple[str, ...]) -> list[Utterance]:
    """Every word in every accent, by every speaker, at every speed."""
    return [Utterance(w, a, v, s) for w in range(words) for a in ACCENTS for v in speakers for s in SPEEDS]


def with_noise(sound: np.ndarray, generator: np.random.Generator, level: float) -> np.ndarray:
    """The word at some place in noise of a random loudness."""
    recording = np.zeros(max(len(sound), int(SECONDS * RATE)), np.float32)
    begin = generator.integers(0, len(recording) - len(sound) + 1)
    recording[begin : begin + len(sound)] = sound
    return recording + level * generator.uniform(0.2, 1) * generator.standard_normal(len(recording)).astype(np.float32)


class ConvNet(nn.Module):
    """Blocks of 3 by 3 convolutions on the spectrogram, halved four times, and the mean."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        blocks, before = [], 1
        for channels in (width, 2 * width, 3 * width, 4 * width):
            conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
            blocks += [conv, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
            before = channels
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(before, labels)

    def forward(self, input_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Logits of spectrograms (batch, frames, bands), and the loss."""
        logits = self.head(self.blocks(input_values[:, None]).mean((2, 3)))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def networks(mixer: str, width: int, layers: int, labels: dict[int, str]) -> dict[str, nn.Module]:
    """The three networks, of about one size."""
    config = SeqConvConfig(
        hidden_size=width, num_hidden_layers=layers, mixer=mixer, bidirectional=mixer != "vim", norm="rms",
        audio_input="spectrogram", num_audio_features=BANDS, patch_size=PATCH, position_embedding="learned",
        max_position_embeddings=(FRAMES // PATCH) * (BANDS // PATCH),
        id2label=labels, label2id={word: i for i, word in labels.items()},
    )  # fmt: skip
    transformer = ASTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=5 * width // 2,
        patch_size=PATCH, frequency_stride=PATCH, time_stride=PATCH, num_mel_bins=BANDS, max_length=FRAMES,
        num_labels=len(labels), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return {
        f"seqconv, {mixer}": SeqConvForAudioClassification(config),
        "AST": ASTForAudioClassification(transformer),
        "convolutions": ConvNet(max(2, 2 * width // 5), len(labels)),
    }


def as_row(extractor: Any, sound: np.ndarray, word: int) -> dict[str, Any]:
    """A row of a data set: the spectrogram and the word."""
    return {
        "input_values": extractor(sound, sampling_rate=RATE, return_tensors="pt")["input_values"][0],
        "labels": word,
    }


def train(model: nn.Module, rows: list[dict[str, Any]], steps: int, rate: float, out: Path) -> float:
    """Train in place; returns the seconds of a step."""
    arguments = TrainingArguments(
        str(out / "runs"), max_steps=steps, per_device_train_batch_size=32, warmup_steps=steps // 10, seed=0,
        lr_scheduler_type="cosine", logging_steps=max(1, steps // 4), save_strategy="no", report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=rate, weight_decay=0.05))
    begin = time.perf_counter()
    Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None)).train()
    return (time.perf_counter() - begin) / steps


@torch.no_grad()
def accuracy(model: nn.Module, rows: list[dict[str, Any]]) -> float:
    """Share of words that are right."""
    model = model.eval()
    device = next(model.parameters()).device
    inputs = torch.stack([row["input_values"] for row in rows]).to(device)
    labels = torch.tensor([row["labels"] for row in rows])
    outputs = [model(input_values=part) for part in inputs.split(64)]
    found = torch.cat([output["logits"].argmax(-1) for output in outputs]).cpu()
    return float((found == labels).float().mean())


def write_wave(path: Path, sounds: list[np.ndarray]) -> None:
    """One sound after another, with silence between."""
    pause = np.zeros(RATE // 4, np.float32)
    samples = np.concatenate([part for sound in sounds for part in (sound, pause)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def draw(path: Path, pictures: list[Tensor], titles: list[str]) -> None:
    """Spectrograms in a row, low bands at the bottom."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(pictures), 2.2), layout="constrained")
    for axes, picture, title in zip(np.ravel(figure.subplots(1, len(pictures))), pictures, titles, strict=True):
        axes.imshow(picture.T.numpy(), origin="lower", aspect="auto", cmap="magma")
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(path, dpi=120)


def show(out: Path, extractor: Any, recordings: list[tuple[np.ndarray, str]]) -> list[list[str]]:
    """Classify recordings through a pipeline, write and draw them; returns what was said and what was recognised."""
    listen = pipeline("audio-classification", str(out), device="cpu")
    found = [listen({"raw": sound, "sampling_rate": RATE})[0]["label"] for sound, _ in recordings]
    write_wave(out / "words.wav", [sound for sound, _ in recordings])
    pictures = [as_row(extractor, sound, 0)["input_values"] for sound, _ in recordings]
    both = [[word, guess] for (_, word), guess in zip(recordings, found, strict=True)]
    draw(out / "words.png", pictures, [f"{word} → {guess}" for word, guess in both])
    return both


def main(
    mixer: Annotated[str, typer.Option(help="See `seqconv list`.")] = "vim",
    steps: Annotated[int, typer.Option(help="Optimiser steps of each network.")] = 400,
    width: Annotated[int, typer.Option(help="d_model.")] = 64,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 3,
    words: Annotated[int, typer.Option(help="How many words.")] = len(WORDS),
    speakers: Annotated[int, typer.Option(help="How many voices to train on.")] = len(SPEAKERS),
    noise: Annotated[float, typer.Option(help="Deviation of the loudest noise.")] = 0.1,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    out: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("outputs/words"),
) -> dict[str, Any]:
    """Speak, train, compare on voices kept out of training, classify through a pipeline; returns the report."""
    out.mkdir(parents=True, exist_ok=True)
    say = spoken if shutil.which("espeak-ng") else synthesised
    labels = dict(enumerate(WORDS[:words]))
    set_seed(0)
    models = networks(mixer, width, layers, labels)
    first = next(iter(models.values()))
    extractor = audio_feature_extractor(first.config, sampling_rate=RATE, max_length=FRAMES)
    generator = np.random.default_rng(0)
    voices = {"train": SPEAKERS[:speakers], "test": TEST_SPEAKERS}
    sounds = {
        split: [(with_noise(say(each), generator, noise), each.word) for each in utterances(words, names)]
        for split, names in voices.items()
    }
    data = {split: [as_row(extractor, *pair) for pair in pairs] for split, pairs in sounds.items()}
    report: dict[str, Any] = {"speech": say.__name__, "train": len(data["train"]), "test": len(data["test"])}
    report["models"] = {}
    for name, model in models.items():
        set_seed(0)
        seconds = train(model, data["train"], steps, rate, out)
        count, right = sum(p.numel() for p in model.parameters()), accuracy(model, data["test"])
        report["models"][name] = {"parameters": count, "accuracy": right, "seconds_per_step": round(seconds, 4)}
        print(f"{name}: {count:,} parameters, {right:.1%} of new voices, {seconds:.3f} s a step")
    first.save_pretrained(out)
    extractor.save_pretrained(out)
    chosen = [sounds["test"][i] for i in np.linspace(0, len(sounds["test"]) - 1, 6).astype(int)]
    report["examples"] = show(out, extractor, [(sound, labels[word]) for sound, word in chosen])
    (out / "report.json").write_text(json.dumps(report, indent=2))
    return report


if __name__ == "__main__":
    typer.run(main)
