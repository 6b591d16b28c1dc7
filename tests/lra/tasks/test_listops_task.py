"""ListOps as a task: determinism, the prepared folder and its damages, reading files, token ids, batches, baselines."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lra.data.sequences import RightPadding, Sequences
from lra.data.store import MANIFEST, atomic_write, need_space, write_data
from lra.tasks.listops.expressions import SYMBOLS, bracketed
from lra.tasks.listops.task import ListOps, baselines, make_tokeniser

TINY = ListOps(setting="small", train=600, val=100, test=100, seed=3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    TINY.prepare(root, workers=1, quiet=True)
    return root


@pytest.fixture
def damaged(root, tmp_path):
    shutil.copytree(TINY.folder(root), TINY.folder(tmp_path))
    return tmp_path


PREPARE = """
import sys
from pathlib import Path
from lra.tasks.listops.task import ListOps
if __name__ == "__main__":
    task = ListOps(setting="small", train=600, val=100, test=100, seed=3)
    print(task.prepare(Path(sys.argv[1]), workers=2, quiet=True).fingerprint)
"""


def test_content_depends_on_the_seed_exclusive(root, tmp_path):
    """Two processes and another hash seed give the same bytes; another seed gives others."""
    (tmp_path / "prepare.py").write_text(PREPARE)
    paths = [str(Path(__file__).parents[3] / part) for part in ("", "kernels")]
    environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(tmp_path / "prepare.py"), str(tmp_path / "data")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == TINY.load(root).fingerprint
    other = ListOps(setting="small", train=600, val=100, test=100, seed=4)
    assert other.prepare(tmp_path, workers=1, quiet=True).fingerprint != done.stdout.strip()


def test_the_manifest_says_what_was_made(root):
    manifest = json.loads((TINY.folder(root) / MANIFEST).read_text())
    assert manifest["parameters"] == {"setting": "small", "seed": 3, "sizes": {"train": 600, "val": 100, "test": 100}}
    assert manifest["sizes"] == {"train": 600, "val": 100, "test": 100}
    assert TINY.prepare(root, quiet=True).fingerprint == manifest["fingerprint"]


def test_unprepared_data_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest.json .*python -m lra prepare listops-small'"):
        TINY.load(tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train.codes.npy", truncate, r"train.codes.npy of \d+ bytes; wanted \d+ bytes"),
        ("val.labels.npy", flip, r"val.labels.npy with another SHA-256"),
        ("test.offsets.npy", Path.unlink, r"no file .*test.offsets.npy"),
        (MANIFEST, truncate, r"an unreadable .*manifest.json"),
        (MANIFEST, lambda path: path.write_text("{}"), r"an unreadable .*manifest.json"),
    ],
)
def test_damaged_data_is_rejected_and_repaired(damaged, name, damage, message):
    damage(TINY.folder(damaged) / name)
    with pytest.raises(ValueError, match=message + r".*rebuild it with 'python -m lra prepare listops-small --force'"):
        TINY.load(damaged)
    with pytest.raises(ValueError, match=message):
        TINY.prepare(damaged, quiet=True)
    TINY.prepare(damaged, workers=1, force=True, quiet=True)
    assert len(TINY.load(damaged).splits["train"]) == 600


def test_data_made_for_other_options_is_rejected(damaged):
    manifest = TINY.folder(damaged) / MANIFEST
    manifest.write_text(manifest.read_text().replace('"seed": 3', '"seed": 5'))
    with pytest.raises(ValueError, match=r"made for listops-small with .*'seed': 5.*wanted .*'seed': 3"):
        TINY.load(damaged)


def test_an_interrupt_leaves_nothing_and_keeps_what_was_there(damaged):
    def interrupted(folder: Path) -> dict[str, int]:
        (folder / "train.codes.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_data(TINY.folder(damaged), "listops-small", TINY.parameters(), interrupted)
    assert [path.name for path in damaged.iterdir()] == [TINY.folder(damaged).name]
    assert len(TINY.load(damaged).splits["train"]) == 600
    with pytest.raises(KeyboardInterrupt):
        write_data(damaged / "new", "listops", {}, interrupted)
    assert not (damaged / "new").exists()


def test_what_a_killed_process_left_is_swept(damaged):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = damaged / f".{TINY.folder(damaged).name}.{dead.stdout.strip()}.partial"
    left.mkdir()
    TINY.prepare(damaged, workers=1, force=True, quiet=True)
    assert not left.exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    atomic_write(tmp_path / "page.md", "first")

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic_write(tmp_path / "page.md", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    assert (tmp_path / "page.md").read_text() == "first"


def test_a_full_disk_is_rejected_before_work(tmp_path):
    with pytest.raises(ValueError, match=r"prepare: received .* MB free at .*; wanted 10{15} MB.*--data"):
        need_space(tmp_path / "not" / "there", 10**21)


def write_tsv(path, sequences):
    """Write a split in the benchmark's own format."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["Source", "Target"])
        for index in range(len(sequences)):
            writer.writerow([bracketed(sequences[index].tolist()), int(sequences.labels[index])])


@pytest.mark.parametrize(
    "layout", ["", "listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000"]
)
def test_the_benchmark_files_are_read_in_every_layout(root, tmp_path, layout):
    made = TINY.load(root)
    source = tmp_path / "source" / layout
    source.mkdir(parents=True)
    for split in ("train", "val", "test"):
        write_tsv(source / f"basic_{split}.tsv", made.splits[split].sequences)
    assert (source / "basic_val.tsv").read_bytes().startswith(b"Source\tTarget\r\n( ")
    task = ListOps(source=str(tmp_path / "source"))
    task.prepare(tmp_path, quiet=True)
    read = task.load(tmp_path)
    for split, dataset in read.splits.items():
        assert np.array_equal(dataset.sequences.codes, made.splits[split].sequences.codes)
        assert np.array_equal(dataset.sequences.labels, made.splits[split].sequences.labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("( ( ( [MAX 5 ) 8 ) ] )\t8\r\n", r"the first line .*wanted Source<TAB>Target"),
        ("Source\tTarget\r\n( ( ( [MAX 5 ) 8 ) ] )\t5\r\n", r"line 2 with label 5; wanted its value 8"),
        ("Source\tTarget\r\n5\t5\r\n( ( ( [MAX 5 ) 8\r\n", r"line 3 of 1 columns"),
        ("Source\tTarget\r\n( ( ( [MAX 5 ) 8 ) ]\t8\r\n", r"line 2: listops.evaluate: received the end of the text"),
    ],
)
def test_wrong_files_are_rejected_with_the_line(tmp_path, content, message):
    for split in ("train", "val", "test"):
        (tmp_path / f"basic_{split}.tsv").write_bytes(content.encode())
    with pytest.raises(ValueError, match=message):
        ListOps(source=str(tmp_path)).prepare(tmp_path / "data", quiet=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no basic_train.tsv in .*lra_release"):
        ListOps(source=str(tmp_path)).prepare(tmp_path / "data", quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "smal"}, r"setting='smal'; wanted one of full, small"),
        ({"convention": "tf"}, r"convention='tf'; wanted one of s4, jax"),
        ({"train": -1}, r"sizes -1, 0, 0; wanted 0 or more"),
    ],
)
def test_wrong_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        ListOps(**options)


def test_token_ids_by_convention():
    counts = dict(zip(SYMBOLS, [7] * 10 + [3, 4, 5, 6] + [50], strict=True))
    s4 = make_tokeniser("s4", counts)
    assert (s4.vocab_size, s4.pad_id, s4.eos_id, s4.max_length) == (18, 0, 2, 2048)
    codes = np.array([11, 5, 0, 14], np.uint8)
    assert s4(codes).tolist() == [3 + 13, 3 + 1 + 5, 3 + 1, 3, 2]
    assert len(s4(np.zeros(5000, np.uint8))) == 2048
    assert s4(np.zeros(5000, np.uint8))[-1] == 2
    jax = make_tokeniser("jax", counts)
    assert (jax.vocab_size, jax.pad_id, jax.eos_id, jax.max_length) == (17, 0, None, 2000)
    assert sorted(jax.ids) == list(range(1, 16))
    assert len(jax(np.zeros(5000, np.uint8))) == 2000


def test_batches_are_padded_on_the_right(root):
    data = TINY.load(root)
    rows = [data.splits["train"][index] for index in range(5)]
    batch = data.collate(rows)
    lengths = [len(row["input_ids"]) for row in rows]
    assert batch["input_ids"].shape == (5, max(lengths))
    assert batch["attention_mask"].sum(1).tolist() == lengths
    for row, (ids, mask) in zip(rows, zip(batch["input_ids"], batch["attention_mask"], strict=True), strict=True):
        assert ids[mask == 1].tolist() == row["input_ids"].tolist()
        assert (ids[mask == 0] == data.pad_id).all()
    assert batch["labels"].tolist() == [row["labels"] for row in rows]
    assert batch["labels"].dtype == torch.int64
    assert RightPadding(0, 200)(rows)["input_ids"].shape == (5, 200)


def test_baselines_are_measured():
    """[MAX x y]: the commonest label given MAX is right half of the time, reading to depth 1 always."""
    train = Sequences.collect([(bytes([11, 5, 8, 14]), 8), (bytes([11, 8, 8, 14]), 8), (bytes([10, 1, 2, 14]), 1)])
    split = Sequences.collect([(bytes([11, 2, 8, 14]), 8), (bytes([11, 2, 3, 14]), 3)])
    found = baselines(train, split)
    assert found["chance"] == 0.1
    assert found["majority class"] == 0.5
    assert found["root operator"] == 0.5
    assert found["read to depth 1"] == 1.0


def test_baselines_of_small_listops_match_the_published_probe(root):
    found = TINY.load(root).baselines["val"]
    assert 0.05 < found["majority class"] < 0.22
    assert 0.15 < found["root operator"] < 0.36
    assert found["root operator"] < found["read to depth 2"] < found["read to depth 3"]
