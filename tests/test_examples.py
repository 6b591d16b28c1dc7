"""The scripts of examples/ run, in a small form."""

import importlib.util
import json
import re
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from seqconv import create_mixer, list_mixers
from seqconv.cli.app import app

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = set(re.findall(r'load\("(\w+)"\)', Path(__file__).read_text()))
    sources = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    parts = {name for text in sources.values() for name in re.findall(r"^from (\w+) import", text, re.M)}
    assert sources.keys() == tested | (parts & sources.keys())


def test_compare_mixers_has_a_row_for_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    load("compare_mixers").main(d_model=8, length=32, pattern="*")
    table = capsys.readouterr().out
    for name in list_mixers():
        assert (f"│ {name} " in table) == create_mixer(name, 8).causal


def test_import_original_compares_outputs(capsys):
    load("import_original").main()
    assert "prefill and steps: largest difference" in capsys.readouterr().out


@pytest.mark.parametrize("mixer", ["mamba", "hyena"])
def test_a_trained_language_model_is_generated_from_by_the_command(mixer, tmp_path, capsys):
    sizes = {"steps": 4, "length": 32, "batch_size": 2, "width": 8, "layers": 2, "characters": 5000}
    text = load("train_causal_lm").main(mixer=mixer, out=tmp_path / "lm", **sizes)
    assert text.startswith("def ")
    result = CliRunner().invoke(
        app, ["generate", str(tmp_path / "lm"), "--prompt", "def ", "--max-new-tokens", "5", "--temperature", "1"]
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("def ")
    assert len(result.stdout) > len("def ")


def test_a_distilled_hyena_is_compared_with_the_exact_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    sizes = {"steps": 3, "length": 64, "batch_size": 2, "width": 8, "layers": 2, "characters": 20_000}
    settings = {"longest": 256, "new_tokens": 12, "method": "kung-varpro", "methods": "balanced,era"}
    settings |= {"tuning_steps": 2, "distillable": 2}
    results = load("hyena_distillation").main(out=tmp_path, **settings, **sizes)
    assert results["same_tokens"] == [12, 12]
    written = {"exact", "distillable", "distillable-order-8", "results.json", "report.md", "speed.png"}
    assert {path.name for path in tmp_path.iterdir()} >= written
    distilled = [row for row in results["models"].values() if row["kl"] is not None]
    assert len(distilled) == 7
    ready = results["distillable"]["models"]
    assert [row["kl"] is None for row in ready.values()] == [True, True, False, False]
    assert results["chosen"] in results["models"]
    assert set(results["methods"]) == {"balanced", "era"}
    for row in distilled:
        assert abs(row["bits_per_byte"] - results["models"]["exact"]["bits_per_byte"]) < 0.1
        assert 0 < row["kl"] < 0.1
        assert 0.5 < row["agreement"] <= 1
        assert 0 <= row["parting"] <= 12
    assert all(rate > 0 for rates in results["tokens_per_second"].values() for rate in rates)


@pytest.mark.parametrize("mixer", ["mamba", "hyena", "attention"])
def test_prompts_that_begin_alike_are_read_once(mixer, capsys):
    counts = load("prompt_cache").main(mixer=mixer, width=8, layers=2, every=16)
    assert counts["states"] == 7
    assert counts["reused"] == 192
    assert counts["read"] < counts["reused"]


def test_classify_images_learns_the_stripes(tmp_path):
    assert load("classify_images").main(mixer="s4d", steps=30, size=8, width=16, out=tmp_path) > 0.9


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


def test_digits_are_read_by_three_models_and_drawn(tmp_path, monkeypatch, capsys):
    example = load("real_pictures")
    classes = torch.arange(90) % 3  # a bright third of the image stands for a digit
    images = torch.full((90, 1, 16, 16), -1.0)
    for image, label in zip(images, classes.tolist(), strict=True):
        image[:, 5 * label : 5 * label + 5] = 1.0
    monkeypatch.setattr(example, "digits", lambda: (images + 0.1 * torch.randn_like(images), classes))
    scores = example.classify_digits(steps=40, width=16, out=tmp_path)
    assert set(scores) == {"VMamba", "ViT", "ResNet"}
    assert scores["VMamba"] > 0.9
    assert size_of(tmp_path / "digits.png") == (72 * 12, 90)
    assert capsys.readouterr().out.count("of unseen digits right") == 3


def test_cells_are_segmented_by_three_models_and_drawn(tmp_path, monkeypatch):
    example = load("real_pictures")
    monkeypatch.setattr(example, "CELL_TILE", 32)
    mask = torch.zeros(96, 64, dtype=torch.long)
    mask[:, 20:44] = 1
    monkeypatch.setattr(example, "tissue", lambda: (2.0 * mask.expand(3, -1, -1) - 1, mask))
    scores = example.segment_cells(steps=15, width=16, out=tmp_path)
    assert set(scores) == {"VMamba", "ViT", "ResNet"}
    assert scores["VMamba"] > 0.6
    assert size_of(tmp_path / "cells.png") == (5 * (64 + 8), 96)


def test_scores_of_masks():
    iou = load("real_pictures").iou
    found, want = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert iou(found, want) == pytest.approx(1 / 3)
    assert iou(found, found) == 1


@pytest.mark.parametrize("installed", [pytest.param(True, marks=pytest.mark.slow), False], ids=["espeak-ng", "without"])
def test_spoken_words_are_classified_next_to_baselines(tmp_path, monkeypatch, installed):
    example = load("classify_speech")
    if not installed:
        monkeypatch.setattr(example.shutil, "which", lambda name: None)
    elif example.shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    monkeypatch.setattr(example, "SPEEDS", (200,))
    monkeypatch.setattr(example, "ACCENTS", ("en-us",))
    report = example.main(mixer="s4d", out=tmp_path, steps=3, width=8, layers=1, words=2, speakers=2, noise=0.02)
    assert report["speech"] == ("spoken" if installed else "synthesised")
    assert (report["train"], report["test"]) == (4, 4)
    assert len(report["models"]) == 3
    assert all(0 <= row["accuracy"] <= 1 and row["parameters"] > 500 for row in report["models"].values())
    assert len(report["examples"]) == 6
    assert {path.name for path in tmp_path.iterdir()} >= {"words.wav", "words.png", "report.json", "model.safetensors"}


def test_accelerated_models_are_timed_against_transformers(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    example, written = load("accelerate_transformers"), tmp_path / "figures.json"
    sizes = {"layers": 2, "scale": 0.25, "prompt": 16, "train": 16, "repeats": 1}
    rows = example.main(families="mamba,lfm2", with_memory=False, json_file=written, **sizes)
    assert [(row["shape"], row["direction"]) for row in rows] == list(product(("mamba", "lfm2"), example.WHAT))
    assert all(ms > 0 for row in rows for ms in row["ms"].values())
    assert min(example.memory("mamba", 2, 0.25, 64)) > 0
    assert "training memory" in capsys.readouterr().out
    report = json.loads(written.read_text())
    assert report["rows"] == rows
    assert {"torch", "transformers", "processor", "threads"} <= report["machine"].keys()
