"""Malformed public files: every reader names file and place in one error, and leaves nothing behind."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lra.data.fairseq import read_ids
from lra.data.files import read_text, require_inside, require_label, text_lines
from lra.tasks import create_task
from lra.tasks.listops.task import FILES as LISTOPS_FILES
from lra.tasks.retrieval import FILES as PAIR_FILES

IDS = np.array([4, 5, 2, 6, 2], "<u2")


def write_mapped(folder: Path, lengths: list[int], offsets: list[int], count: int) -> Path:
    head = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, count)
    (folder / "train.idx").write_bytes(head + np.array(lengths, "<i4").tobytes() + np.array(offsets, "<i8").tobytes())
    (folder / "train.bin").write_bytes(IDS.tobytes())
    return folder / "train"


def write_plain(folder: Path, lengths: list[int], offsets: list[int], count: int, element: int = 2) -> Path:
    head = b"TNTIDX\0\0" + struct.pack("<QQQQQ", 1, 8, element, count, len(lengths))
    parts = (np.arange(len(lengths) + 1), np.array(offsets), np.array(lengths))
    (folder / "train.idx").write_bytes(head + b"".join(part.astype("<i8").tobytes() for part in parts))
    (folder / "train.bin").write_bytes((IDS + 1).tobytes())
    return folder / "train"


def test_the_undamaged_indices_are_read(tmp_path):
    for prefix in (write_mapped(tmp_path, [3, 2], [0, 6], 2), write_plain(tmp_path, [3, 2], [0, 3, 5], 2)):
        assert [ids.tolist() for ids in read_ids(prefix, 10)] == [[4, 5, 2], [6, 2]]


@pytest.mark.parametrize(
    ("lengths", "offsets", "count", "message"),
    [
        ([-3, 2], [0, 6], 2, "sequence 0 has length -3"),
        ([3, 2], [1, 6], 2, "sequence 0 starts at 1 instead of 0"),
        ([3, 2], [0, 7], 2, "sequence 1 starts at 7 instead of 6"),
        ([3, 2], [0, 4], 2, "sequence 1 starts at 4 instead of 6"),
        ([3, 2], [0, 2**63 - 2], 2, "sequence 1 starts at 9223372036854775806 instead of 6"),
        ([3, 2], [0, -2], 2, "sequence 1 starts at -2 instead of 6"),
        ([3, 2], [0, 6], 2**63 + 1, "bytes instead of"),
        ([3, 2], [0, 6], 3, "bytes instead of"),
    ],
)
def test_damaged_mapped_indices(tmp_path, lengths, offsets, count, message):
    with pytest.raises(ValueError, match=f"train.idx: received no whole index .*{message}.*Remedy"):
        list(read_ids(write_mapped(tmp_path, lengths, offsets, count), 10))


@pytest.mark.parametrize(
    ("lengths", "offsets", "count", "element", "message"),
    [
        ([3, -2], [0, 3, 5], 2, 2, "sequence 1 has length -2"),
        ([3, 2], [0, 2**62, 5], 2, 2, "sequence 1 starts at 4611686018427387904 instead of 3"),
        ([3, 2], [0, 3, 5], 3, 2, "2 lengths of 3 sequences"),
        ([3, 2], [0, 3, 5], 2, 4, "elements of 4 bytes"),
    ],
)
def test_damaged_plain_indices(tmp_path, lengths, offsets, count, element, message):
    with pytest.raises(ValueError, match=f"train.idx: received no whole index .*{message}.*Remedy"):
        list(read_ids(write_plain(tmp_path, lengths, offsets, count, element), 10))


@given(place=st.integers(0, 40), value=st.integers(0, 255))
def test_a_changed_byte_of_an_index_gives_the_same_sequences_or_a_clear_error(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("index")
    prefix = write_mapped(folder, [3, 2], [0, 6], 2)
    index = bytearray((folder / "train.idx").read_bytes())
    index[place] = value
    (folder / "train.idx").write_bytes(index)
    found, message = [], ""
    try:
        found = [id for ids in read_ids(prefix, 10) for id in ids.tolist()]
    except ValueError as error:
        message = str(error)
    assert found == IDS.tolist() or "Remedy" in message


def write_cifar(folder: Path, labels: list[object]) -> None:
    folder.mkdir(parents=True)
    batch = {b"data": np.zeros((len(labels), 3072), np.uint8), b"labels": labels}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps(batch))


@pytest.mark.parametrize("label", [99, 10, -1, 3.5, "cat", None, True])
def test_labels_of_images_out_of_range(tmp_path, label):
    write_cifar(tmp_path / "cifar-10-batches-py", [0, 1, label])
    task = create_task("image", {"source": str(tmp_path)})
    with pytest.raises(ValueError, match=r"read .*data_batch_1, image 2: received label .*; wanted 0 to 9"):
        task.prepare(tmp_path / "out", quiet=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("task", "classes"), [("image", 10), ("pathfinder", 2)])
def test_labels_of_megas_images_out_of_range(tmp_path, task, classes):
    for part in ("input", "label"):
        (tmp_path / part).mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / f"input/{split}.src").write_text((" ".join(["7"] * 1024) + "\n") * 2)
        (tmp_path / f"label/{split}.label").write_text(f"1\n{classes}\n")
    with pytest.raises(ValueError, match=rf"received label {classes}; wanted 0 to {classes - 1}"):
        create_task(task, {"source": str(tmp_path)}).prepare(tmp_path / "out", quiet=True)


def write_parquet(folder: Path, columns: dict[str, list[object]]) -> None:
    import pyarrow
    from pyarrow import parquet

    for split in ("train", "test"):
        parquet.write_table(pyarrow.table(columns), folder / f"{split}.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["good", "bad"], "label": [1, 2]}, r"read train row 1: received label 2; wanted 0 to 1"),
        ({"text": ["good", None], "label": [1, 0]}, r"read train row 1: received NoneType; wanted a text"),
    ],
)
def test_rows_of_parquet_files(tmp_path, columns, message):
    write_parquet(tmp_path, columns)
    with pytest.raises(ValueError, match=message):
        create_task("text", {"source": str(tmp_path)}).prepare(tmp_path / "out", quiet=True)


def write_pairs(folder: Path) -> str:
    for name in PAIR_FILES.values():
        (folder / name).write_bytes(b"1.0\t1\t2\ta\tb\n0.0\t1\t2\t\xff\xfe\tc\n")
    return "retrieval"


def write_listops(folder: Path) -> str:
    for name in LISTOPS_FILES.values():
        (folder / name).write_bytes(b"Source\tTarget\r\n( ( [MAX 5 ) \xe9 ) ]\t5\r\n")
    return "listops"


def write_reviews(folder: Path) -> str:
    for name in ("train/neg", "train/pos", "test/neg", "test/pos"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0_1.txt").write_bytes(b"good\nb\xffd")
    return "text"


@pytest.mark.parametrize("write", [write_pairs, write_listops, write_reviews])
def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path, write):
    task = create_task(write(tmp_path), {"source": str(tmp_path)})
    with pytest.raises(ValueError, match=r"read .*: received line 2, byte \d+.*: b'.*; wanted UTF-8. Remedy: take a"):
        task.prepare(tmp_path / "out", quiet=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_reviews_that_are_links_out_of_their_folder_are_not_read(tmp_path):
    task = create_task(write_reviews(tmp_path / "set"), {"source": str(tmp_path / "set")})
    (tmp_path / "secret").write_text("secret")
    review = tmp_path / "set/train/neg/0_1.txt"
    review.unlink()
    review.symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"0_1.txt, which leads to .*secret; wanted a file inside"):
        task.prepare(tmp_path / "out", quiet=True)


def test_a_folder_may_be_a_link(tmp_path):
    """Data sets on another disk are often linked as a whole."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/file").write_text("text")
    (tmp_path / "set").symlink_to(tmp_path / "disk")
    assert read_text(require_inside(tmp_path / "set/file", tmp_path / "set")) == "text"


def test_lines_end_as_in_unix_or_windows(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes("one\r\ntwo\u2028 and\x0c more\n\nthree".encode())
    assert list(text_lines(path)) == [(1, "one"), (2, "two\u2028 and\x0c more"), (3, ""), (4, "three")]


def test_labels_of_any_integer_type():
    assert [require_label(label, 3, "x") for label in (2, np.int64(1), np.uint8(0))] == [2, 1, 0]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("listops", r"lra_release.gz \(https://storage.*MEGA's lra.zip"),
        ("retrieval", r"lra_release.gz \(https://storage.*MEGA's lra.zip"),
        ("pathx", r"lra_release.gz \(https://storage.*MEGA's lra.zip"),
        ("text", r"aclImdb_v1.tar.gz \(https://ai.stanford.edu.*stanfordnlp/imdb of the hub"),
        ("image", r"cifar-10-python.tar.gz \(https://www.cs.toronto.edu.*uoft-cs/cifar10 of the hub"),
    ],
)
def test_a_missing_archive_says_where_to_get_it(tmp_path, task, message):
    os.makedirs(tmp_path / "empty")
    with pytest.raises(ValueError, match=message):
        create_task(task, {"source": str(tmp_path / "empty")}).prepare(tmp_path / "out", quiet=True)
