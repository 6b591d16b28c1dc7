"""The released Pathfinder folders: two copies, one empty image, splits of any size, images outside the folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lra.tasks import create_task
from lra.tasks.pathfinder.released import find_images, is_known_empty, read_metadata
from lra.tasks.pathfinder.task import split_orders


def make_images(folder: Path, size: int, first: int, count: int, grey: int = 0) -> None:
    """Images ``sample_<first>`` and on, each of one grey value, and their metadata as the release has it."""
    (folder / "imgs" / "0").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for i in range(count):
        Image.fromarray(np.full((size, size), grey + i, np.uint8)).save(folder / "imgs/0" / f"sample_{first + i}.png")
    lines = (f"imgs/0 sample_{first + i}.png {i} {i % 2} 1.8 6 2\n" for i in range(count))
    (folder / "metadata/0.npy").write_text("".join(lines))


def test_the_empty_image_of_the_release_is_left_out_and_recorded(tmp_path, caplog):
    folder = tmp_path / "pathfinder32" / "curv_baseline"
    make_images(folder, 32, 160, 20)
    (folder / "imgs/0/sample_172.png").write_bytes(b"")
    task = create_task("pathfinder", {"source": str(tmp_path), "difficulty": "curv_baseline"})
    assert task.prepare(tmp_path / "data", quiet=True).sizes == {"train": 17, "val": 1, "test": 1}
    assert "without imgs/0/sample_172.png, which is an empty file in the release" in caplog.text
    data = task.load(tmp_path / "data")
    assert data.origin.endswith("without imgs/0/sample_172.png, which is an empty file in the release")
    rows = [rows[index] for rows in data.splits.values() for index in range(len(rows))]
    assert {int(row["pixels"][0, 0]) for row in rows} == set(range(20)) - {12}
    assert all(row["labels"] == int(row["pixels"][0, 0]) % 2 for row in rows)


@pytest.mark.parametrize(("difficulty", "name"), [("curv_baseline", 171), ("curv_contour_length_9", 172)])
def test_any_other_empty_image_is_an_error(tmp_path, difficulty, name):
    folder = tmp_path / "pathfinder32" / difficulty
    make_images(folder, 32, 160, 20)
    (folder / f"imgs/0/sample_{name}.png").write_bytes(b"")
    task = create_task("pathfinder", {"source": str(tmp_path), "difficulty": difficulty})
    with pytest.raises(ValueError, match=rf"sample_{name}.png: received no readable image"):
        task.prepare(tmp_path / "data", quiet=True)
    assert not is_known_empty(folder / "imgs/0/sample_172.png", folder, 64)


INNER = "lra_release/lra_release/pathfinder128/curv_contour_length_14"
OUTER = "lra_release/pathfinder128/curv_contour_length_14"


@pytest.mark.parametrize(("copy", "chosen"), [("", INNER), ("inner", INNER), ("outer", OUTER)])
def test_of_two_copies_the_inner_one_is_read_unless_asked(tmp_path, caplog, copy, chosen):
    make_images(tmp_path / OUTER, 128, 0, 10, grey=100)
    make_images(tmp_path / INNER, 128, 0, 10, grey=200)
    for source in (tmp_path, tmp_path / "lra_release"):
        assert find_images(source, 128, "curv_contour_length_14", copy) == tmp_path / chosen
    assert ("holds two copies" in caplog.text) == (copy == "")
    task = create_task("pathx", {"source": str(tmp_path), "copy": copy})
    task.prepare(tmp_path / "data", quiet=True)
    data = task.load(tmp_path / "data")
    assert data.origin == str(tmp_path / chosen)
    assert data.splits["train"][0]["pixels"][0, 0] >= (100 if copy == "outer" else 200)


def test_an_unknown_copy_is_an_error():
    with pytest.raises(ValueError, match=r"copy='both'; wanted one of , inner, outer"):
        create_task("pathx", {"copy": "both"})


@pytest.mark.parametrize("count", [20, 199_999, 200_000])
def test_splits_are_those_of_random_split(count):
    """S4 gives 10 % to validation, 10 % to test, each rounded down, and the rest to training."""
    tenth = int(0.1 * count)
    generator = torch.Generator().manual_seed(42)
    expected = torch.utils.data.random_split(range(count), [count - 2 * tenth, tenth, tenth], generator=generator)
    for order, subset in zip(split_orders(count, permute=True).values(), expected, strict=True):
        assert order.tolist() == list(subset.indices)


def test_images_outside_the_folder_are_not_read(tmp_path):
    make_images(tmp_path / "set", 32, 0, 1)
    (tmp_path / "secret.png").write_bytes(b"secret")
    for row in ("..", str(tmp_path)):
        (tmp_path / "set/metadata/0.npy").write_text(f"{row} secret.png 0 1 1.8 6 2\n")
        with pytest.raises(ValueError, match=r"secret.png, which leads to .*; wanted a file inside"):
            list(read_metadata(tmp_path / "set"))
    (tmp_path / "set/metadata/0.npy").write_text("imgs/0 link.png 0 1 1.8 6 2\n")
    (tmp_path / "set/imgs/0/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=r"link.png, which leads to .*secret.png; wanted a file inside"):
        list(read_metadata(tmp_path / "set"))


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00", b"imgs/0 \xff.png 0 1\n"])
def test_damaged_metadata_is_one_clear_error(tmp_path, content):
    make_images(tmp_path, 32, 0, 1)
    (tmp_path / "metadata/0.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"read .*0.npy: received (no array of strings|line 1, byte 7: b'.xff)"):
        list(read_metadata(tmp_path))


def test_notes_are_part_of_the_verified_data(tmp_path):
    make_images(tmp_path / "set", 32, 0, 10)
    task = create_task("pathfinder", {"source": str(tmp_path / "set")})
    task.prepare(tmp_path / "data", quiet=True)
    notes = task.folder(tmp_path / "data") / "notes.json"
    assert json.loads(notes.read_text()) == {"origin": str(tmp_path / "set")}
    notes.write_text("{}")
    with pytest.raises(ValueError, match=r"notes.json of 2 bytes"):
        task.load(tmp_path / "data")
