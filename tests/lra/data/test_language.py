"""EnWik8 and WikiText-103: small texts in exactly the published formats, and evaluation by sliding windows."""

import json
import math
import zipfile

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from lra.recipes.catalog import create_recipe
from lra.report.runs import read_run
from lra.report.tables import language_table
from lra.tasks import create_task
from lra.tasks.language import task as language
from lra.tasks.language.windows import Windows
from lra.training import trainer
from lra.training.evaluation import evaluate_metrics
from lra.training.run import run

TEXT = bytes(np.random.default_rng(0).choice(list(b"<page> of text\n"), 400).astype(np.uint8))
LINES = {
    "train": [" ", " = Title = ", " ", " the cat <unk> sat , the cat @-@ ran ", ""],
    "valid": [" = Other = ", " the cat "],
    "test": [" a new cat sat "],
}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(language, "HELD_OUT", 100)


def load(name, source, data, **options):
    task = create_task(name, {"source": str(source), **options})
    task.prepare(data, quiet=True)
    return task.load(data)


def make_raw(root):
    (root / "enwik8").write_bytes(TEXT)


def make_zip(root):
    with zipfile.ZipFile(root / "enwik8.zip", "w") as file:
        file.writestr("enwik8", TEXT)


def make_prepared(root):
    for name, part in (("train", TEXT[:200]), ("valid", TEXT[200:300]), ("test", TEXT[300:])):
        (root / f"{name}.txt.raw").write_bytes(part)


@pytest.mark.parametrize("make", [make_raw, make_zip, make_prepared])
def test_bytes_are_split_from_the_end(short, tmp_path, make):
    make(tmp_path)
    data = load("enwik8", tmp_path, tmp_path / "data", length=20)
    assert bytes(data.splits["val"][0]["input_ids"].astype(np.uint8)) == TEXT[200:221]
    assert bytes(data.splits["test"].tokens) == TEXT[300:]
    assert [len(data.splits[split]) for split in ("train", "val", "test")] == [9, 5, 5]
    assert data.vocab_size == 256


@pytest.mark.parametrize(("length", "stride"), [(16, 16), (16, 5), (16, 1), (300, 7)])
def test_every_token_but_the_first_is_predicted_once(length, stride):
    text = np.arange(101)
    windows, seen = Windows(text, length, stride, partial=True), []
    for index in range(len(windows)):
        row = windows[index]
        asked = row["labels"] != -100
        assert np.array_equal(row["labels"][asked], row["input_ids"][asked])
        assert not asked[0]
        if index:
            assert int(asked.argmax()) >= length - stride + 1, "a token with too little before it"
        seen += row["labels"][asked].tolist()
    assert seen == list(range(1, 101))


def make_tokens(root):
    for split, lines in LINES.items():
        (root / f"wiki.{split}.tokens").write_text("".join(f"{line}\n" for line in lines))


def make_text(root):
    (root / "wikitext-103").mkdir()
    for split, lines in LINES.items():
        (root / "wikitext-103" / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))


def make_parquet(root):
    for split, lines in LINES.items():
        name = "validation" if split == "valid" else split
        rows = [f"{line}\n" if line.strip() else "" for line in lines]
        parquet.write_table(pyarrow.table({"text": rows}), root / f"{name}-00000-of-00001.parquet")


@pytest.mark.parametrize("make", [make_tokens, make_text, make_parquet])
def test_words_have_ids_by_frequency_and_lines_end(tmp_path, make):
    make(tmp_path)
    data = load("wikitext103", tmp_path, tmp_path / "data", length=4)
    known = json.loads(next(tmp_path.glob("data/wikitext103-*/vocabulary.json")).read_text())
    assert known == ["<eos>", "=", "the", "cat", "Title", "<unk>", "sat", ",", "@-@", "ran"]
    want = ["<eos>", "=", "Title", "=", "<eos>", "<eos>", "the", "cat", "<unk>", "sat", ",", "the", "cat", "@-@", "ran"]
    assert [known[i] for i in data.splits["train"].tokens] == [*want, "<eos>", "<eos>"]
    assert [known[i] for i in data.splits["test"].tokens] == ["<unk>", "<unk>", "cat", "sat", "<eos>"]
    assert data.vocab_size == len(known)


def test_damaged_texts_are_named(short, tmp_path):
    (tmp_path / "enwik8").write_bytes(TEXT[:200])
    with pytest.raises(ValueError, match=r"received 200 bytes; wanted more than the 200 that are held out"):
        load("enwik8", tmp_path, tmp_path / "data")
    (tmp_path / "enwik8.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"no readable enwik8 \(File is not a zip file\)"):
        load("enwik8", tmp_path, tmp_path / "data")
    make_tokens(tmp_path)
    (tmp_path / "wiki.train.tokens").write_text("a b c d\n")
    with pytest.raises(ValueError, match=r"wiki.valid.tokens, line 1: received the word '='; wanted words of"):
        load("wikitext103", tmp_path, tmp_path / "data")
    (tmp_path / "wiki.train.tokens").unlink()
    with pytest.raises(ValueError, match=r"no wiki.train.tokens in .*wikitext-103-v1.zip"):
        load("wikitext103", tmp_path, tmp_path / "data")
    with pytest.raises(ValueError, match=r"stride=2000; wanted .* a stride of at most the length"):
        create_task("enwik8", {"stride": 2000})


def test_rows_without_a_text_are_named(tmp_path):
    make_parquet(tmp_path)
    parquet.write_table(pyarrow.table({"text": ["a b", None]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"read train row 1: received None; wanted a text"):
        load("wikitext103", tmp_path, tmp_path / "data")


def test_a_run_is_measured_in_bits_and_slides(short, tmp_path, monkeypatch):
    """In parts of five positions, the last of each window shorter."""
    monkeypatch.setattr(trainer, "LOGITS", 16 * 256 * 5 + 1)
    make_raw(tmp_path)
    sizes = {"d_model": 8, "n_layers": 1, "steps": 4, "warmup_steps": 1, "eval_every": 2, "batch_size": 4}
    recipe = create_recipe("enwik8", "s4d").override(
        {**sizes, "mixer.d_state": 4, "task.source": str(tmp_path), "task.length": 30}
    )
    result = run(recipe, tmp_path / "run", data_root=tmp_path / "data", quiet=True)
    for stride in (30, 7):
        data = load("enwik8", tmp_path, tmp_path / "data", length=30, stride=stride)
        nats, right = [], 0
        for index in range(len(data.splits["test"])):
            row = data.splits["test"][index]
            with torch.no_grad():
                logits = result.model.eval().cpu()(torch.from_numpy(row["input_ids"])[None]).logits[0].log_softmax(-1)
            for place in (row["labels"] != -100).nonzero()[0]:
                nats.append(-float(logits[place - 1, row["input_ids"][place]]))
                right += int(logits[place - 1].argmax()) == row["input_ids"][place]
        assert len(nats) == 99
        found = evaluate_metrics(
            tmp_path / "run", data_root=tmp_path / "data", quiet=True, overrides={"task.stride": stride}
        )
        assert found["bits"] == pytest.approx(np.mean(nats) / math.log(2), rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
        assert found["accuracy"] == pytest.approx(right / 99)
        if stride == 30:
            assert result.language["bits"]["test"] == pytest.approx(found["bits"])
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["selected_by"].startswith("best val bits, seen ")
    (row,) = language_table([read_run(tmp_path / "run")])[1:]
    assert row[2] == f"{written['bits']['test']:.4f}"


@pytest.mark.parametrize("mixer", ["s4", "mega"])
def test_published_recipes_of_words_train_in_small(tmp_path, mixer):
    """With their adaptive softmax, tied vectors, and a network after every second layer of S4."""
    make_tokens(tmp_path)
    recipe = create_recipe("wikitext103", mixer)
    assert not recipe.reduced
    assert recipe.source.endswith({"s4": "lm/s4-wt103.yaml", "mega": "README.lm.md"}[mixer])
    sizes = {"d_model": 16, "n_layers": 2, "steps": 2, "warmup_steps": 1, "eval_every": 1, "batch_size": 2}
    own = {"s4": {"mixer.l_max": 4, "mixer.d_state": 4}, "mega": {"mixer.d_k": 4, "mixer.d_v": 8}}[mixer]
    data = {"task.source": str(tmp_path), "task.length": 4, "model.adaptive_cutoffs": [3, 6]}
    recipe = recipe.override({**sizes, **own, **data, "precision": "float32"})
    result = run(recipe, tmp_path / "run", data_root=tmp_path / "data", quiet=True)
    assert result.model.lm_head.words[2].weight is result.model.model.embed_tokens.bands[2].weight
    networks = [block.mlp is not None for block in result.model.model.backbone.blocks]
    assert networks == ([False, True] if mixer == "s4" else [True, True])
    assert 1 < result.language["perplexity"]["test"] < 1000
    assert "model.adaptive_cutoffs=[3, 6]" in read_run(tmp_path / "run").kind
