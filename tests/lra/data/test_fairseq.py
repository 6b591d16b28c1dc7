"""MEGA's binarised files: small copies in both formats of the index, read by every text task; damages named."""

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lra.data.fairseq import read_dictionary, read_ids
from lra.tasks import create_task
from lra.tasks.listops.expressions import SYMBOLS, bracketed
from lra.tasks.listops.generator import SMALL, generate

SPLITS = ("train", "valid", "test")


def write_mapped(prefix: Path, sequences: list[list[int]]) -> None:
    """fairseq's newer format, as its preprocessing writes by default: 16-bit ids."""
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    offsets = np.cumsum([0, *(2 * lengths[:-1])], dtype=np.int64)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, 8, len(sequences))
    prefix.with_suffix(".idx").write_bytes(head + lengths.tobytes() + offsets.tobytes())
    prefix.with_suffix(".bin").write_bytes(np.concatenate(sequences).astype(np.uint16).tobytes())


def write_plain(prefix: Path, sequences: list[list[int]]) -> None:
    """fairseq's older format: 32-bit ids plus 1."""
    lengths = np.array([len(ids) for ids in sequences], np.int64)
    places, starts = np.arange(len(sequences) + 1), np.cumsum([0, *lengths])
    head = b"TNTIDX\x00\x00" + struct.pack("<QQQQQ", 1, 4, 4, len(sequences), len(sequences))
    prefix.with_suffix(".idx").write_bytes(head + places.tobytes() + starts.tobytes() + lengths.tobytes())
    prefix.with_suffix(".bin").write_bytes((np.concatenate(sequences) + 1).astype(np.int32).tobytes())


def binarise(folder: Path, rows: dict[str, list[list[str]]], write=write_mapped) -> None:
    """Write one part (``src-bin``, ``label-bin``) as fairseq does: ids by falling count, ``</s>`` after each row."""
    folder.mkdir(parents=True)
    counts = Counter(symbol for row in rows["train"] for symbol in row)
    symbols = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))
    lines = [f"{symbol} {counts[symbol]}" for symbol in symbols] + ["madeupword0000 0"]
    (folder / "dict.txt").write_text("\n".join(lines) + "\n")
    for split in SPLITS:
        write(folder / split, [[*(4 + symbols.index(symbol) for symbol in row), 2] for row in rows[split]])


def make_listops(folder: Path, write=write_mapped, parentheses: bool = False) -> list[tuple[str, int]]:
    examples = [(bracketed(codes), value) for codes, value in generate(60, SMALL, 3)]
    parts = dict(zip(SPLITS, (examples[:40], examples[40:50], examples[50:]), strict=True))
    texts = {
        split: [(text if parentheses else text.replace("(", "").replace(")", "")).split() for text, _ in part]
        for split, part in parts.items()
    }
    binarise(folder / "src-bin", texts, write)
    binarise(folder / "label-bin", {split: [[str(y)] for _, y in part] for split, part in parts.items()}, write)
    return examples


@pytest.mark.parametrize("write", [write_mapped, write_plain])
@pytest.mark.parametrize(("nesting", "parentheses"), [("", False), ("listops", True), ("lra/listops", False)])
def test_listops_is_read_as_from_its_own_files(tmp_path, write, nesting, parentheses):
    examples = make_listops(tmp_path / "source" / nesting, write, parentheses)
    task = create_task("listops", {"source": str(tmp_path / "source"), "convention": "mega"})
    task.prepare(tmp_path / "data", quiet=True)
    data = task.load(tmp_path / "data")
    assert [len(rows) for rows in data.splits.values()] == [40, 10, 10]
    stored = [data.splits[split].sequences for split in data.splits]
    texts = [bracketed(part[index].tolist()) for part in stored for index in range(len(part))]
    assert texts == [text for text, _ in examples]
    assert [label for part in stored for label in part.labels.tolist()] == [value for _, value in examples]
    counts = Counter(symbol for text, _ in examples[:40] for symbol in text.replace("(", "").replace(")", "").split())
    order = sorted(SYMBOLS, key=lambda symbol: (-counts[symbol], symbol.replace("]", "X")))
    batch = data.collate([data.splits["val"][index] for index in range(2)])
    assert (data.vocab_size, data.pad_id, data.eos_id, data.max_length) == (25, 1, 2, 2002)
    for ids, mask, (text, _) in zip(batch["input_ids"], batch["attention_mask"], examples[40:], strict=False):
        symbols = text.replace("(", "").replace(")", "").split()
        assert ids[mask == 1].tolist() == [*(4 + order.index(symbol) for symbol in symbols), 2]
        assert (ids[mask == 0] == 1).all()


def test_every_convention_reads_listops_from_mega(tmp_path):
    make_listops(tmp_path / "source")
    for convention, size in (("s4", 18), ("jax", 17), ("mega", 25)):
        task = create_task("listops", {"source": str(tmp_path / "source"), "convention": convention})
        task.prepare(tmp_path / "data", quiet=True)
        assert task.load(tmp_path / "data").vocab_size == size


def make_texts(folder: Path, write=write_mapped) -> None:
    rows = {split: [list(text) for text in ("abcab", "cc", "bcabcabcabc")] for split in SPLITS}
    rows["valid"] = rows["valid"][:2]
    labels = {split: [["1"], ["0"], ["1"]][: len(part)] for split, part in rows.items()}
    for name in ("src-bin", "src1-bin"):
        binarise(
            folder / name, {split: part[:: -1 if name == "src1-bin" else 1] for split, part in rows.items()}, write
        )
    binarise(folder / "label-bin", labels, write)


@pytest.mark.parametrize("write", [write_mapped, write_plain])
def test_texts_keep_the_ids_and_splits_of_mega(tmp_path, write):
    make_texts(tmp_path / "source", write)
    task = create_task("text", {"source": str(tmp_path / "source"), "convention": "mega", "max_length": 8})
    task.prepare(tmp_path / "data", quiet=True)
    data = task.load(tmp_path / "data")
    assert [len(rows) for rows in data.splits.values()] == [3, 2, 3]
    rows = [data.splits["train"][index] for index in range(3)]
    a, b, c = 6, 5, 4
    assert [row["input_ids"].tolist() for row in rows] == [[a, b, c, a, b, 2], [c, c, 2], [b, c, a, b, c, a, b, c]]
    assert [row["labels"] for row in rows] == [1, 0, 1]
    assert (data.vocab_size, data.pad_id, data.eos_id) == (9, 1, 2)
    assert "test set" not in data.origin
    assert data.collate(rows)["attention_mask"].sum(1).tolist() == [6, 3, 8]
    assert create_task("text", {"convention": "mega"}).longest == 4002


def test_pairs_are_read_from_mega(tmp_path):
    make_texts(tmp_path / "source" / "retrieval")
    task = create_task("retrieval", {"source": str(tmp_path / "source"), "convention": "mega"})
    task.prepare(tmp_path / "data", quiet=True)
    data = task.load(tmp_path / "data")
    batch = data.collate([data.splits["test"][index] for index in range(3)])
    assert batch["input_ids"].shape == (3, 2, 12)
    assert batch["attention_mask"].sum(2).tolist() == [[6, 12], [3, 3], [12, 6]]
    assert torch.equal(batch["input_ids"][0, 1], batch["input_ids"][2, 0])
    assert data.facts["comparison"] == "mega"
    assert data.max_length == 4002


def test_texts_and_ids_are_not_confused(tmp_path):
    make_texts(tmp_path / "source")
    for name in ("text", "retrieval"):
        with pytest.raises(ValueError, match=rf"{name}: received MEGA's binarised files with convention='s4'; wanted"):
            create_task(name, {"source": str(tmp_path / "source")}).prepare(tmp_path / "data", quiet=True)
        with pytest.raises(ValueError, match=r"convention='mega' without MEGA's files.*source=FOLDER"):
            create_task(name, {"source": str(tmp_path), "convention": "mega"}).prepare(tmp_path / "data", quiet=True)
    task = create_task("text", {"source": str(tmp_path / "source"), "convention": "mega"})
    task.prepare(tmp_path / "data", quiet=True)
    with pytest.raises(ValueError, match=r"text: received MEGA's binarised files with convention='jax'"):
        create_task("text", task.options() | {"convention": "jax"}).load(tmp_path / "data")


def cut(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "src-bin/train.bin", 2), r"train.bin: received \d+ bytes; wanted \d+ bytes, as the index"),
        (lambda f: cut(f / "src-bin/valid.idx", 1), r"valid.idx: received no whole index"),
        (lambda f: (f / "src-bin/test.idx").write_bytes(b"MMIDIDX\x00\x00"), r"test.idx: received no whole index"),
        (lambda f: (f / "src-bin/test.idx").write_bytes(b"something"), r"no whole index \(it starts with b'something'"),
        (lambda f: (f / "src-bin/train.bin").unlink(), r"train.bin: received no such file"),
        (lambda f: (f / "label-bin/dict.txt").unlink(), r"dict.txt: received no such file"),
        (lambda f: (f / "src-bin/dict.txt").write_text("[MAX 3\nodd\n"), r"dict.txt: received line 2: 'odd'"),
        (lambda f: (f / "src-bin/dict.txt").write_text("[MAX 3\n"), r"received ids from 2 to \d+; wanted 0 to 4"),
        (lambda f: (f / "label-bin/dict.txt").write_text("yes 3\n" * 10), r"received label 0: 'yes'; wanted one whole"),
        (lambda f: (f / "label-bin/dict.txt").write_text("3 3\n" * 11), r"received line \d+ with label 3; wanted its"),
        (
            lambda f: [
                (f / f"label-bin/train.{e}").write_bytes((f / f"label-bin/test.{e}").read_bytes())
                for e in ("idx", "bin")
            ],
            r"received 40 sequences; wanted 10, one for each label",
        ),
    ],
)
def test_damaged_files_are_rejected(tmp_path, damage, message):
    make_listops(tmp_path / "source")
    damage(tmp_path / "source")
    with pytest.raises(ValueError, match=message):
        create_task("listops", {"source": str(tmp_path / "source")}).prepare(tmp_path / "data", quiet=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_dictionaries_begin_with_the_special_symbols(tmp_path):
    (tmp_path / "dict.txt").write_text("a b 3\n<s> 1 #fairseq:overwrite\n")
    assert read_dictionary(tmp_path / "dict.txt") == ["<s>", "<pad>", "</s>", "<unk>", "a b", "<s>"]


def test_empty_splits_are_read(tmp_path):
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, 8, 0)
    (tmp_path / "train.idx").write_bytes(head)
    (tmp_path / "train.bin").write_bytes(b"")
    assert list(read_ids(tmp_path / "train", 9)) == []
