"""Pathfinder: geometry of the tables, statistics of the images against the original's, folders, reading, errors."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator, Philox
from PIL import Image
from scipy import ndimage, stats

from lra.data.pixels import PixelCollate, PixelDataset
from lra.tasks.pathfinder.generator import ATTEMPTS, grow_pairs, target_pairs
from lra.tasks.pathfinder.images import draw_block, has_clearance
from lra.tasks.pathfinder.occupancy import Space, Trails
from lra.tasks.pathfinder.paddle import dilate
from lra.tasks.pathfinder.released import read_metadata
from lra.tasks.pathfinder.shapes import SEEDS, VARIANTS, make_shapes
from lra.tasks.pathfinder.task import Pathfinder, split_orders

STATS = json.loads((Path(__file__).parents[2] / "golden" / "lra" / "pathfinder_stats.json").read_text())
GOLDEN = {32: "pathfinder32_first1000", 128: "pathfinder128_curv_contour_length_14"}
GOLDEN[256] = "pathfinder256_curv_contour_length_14"


@pytest.fixture(scope="module", params=[(32, 10), (128, 2), (256, 2)], ids=["32", "128", "256"])
def drawn(request):
    """Images of the hard set: some blocks of 50, with the size's measured statistics."""
    size, blocks = request.param
    parts = [draw_block(11, block, size, 14) for block in range(blocks)]
    return STATS[GOLDEN[size]], np.concatenate([p.pixels for p in parts]), np.concatenate([p.labels for p in parts])


def expand(histogram: dict[str, int]) -> list[int]:
    return [int(value) for value, count in histogram.items() for _ in range(count)]


def test_components_follow_the_original_distribution(drawn):
    """Few merged components at 32 pixels, nearly as many as paddles at 128 and 256."""
    golden, pixels, _ = drawn
    found = [ndimage.label(image > 64, np.ones((3, 3)))[1] for image in pixels]
    reference = expand(golden["connected_components_8conn_gt64"]["hist"])
    assert stats.ks_2samp(found, reference).pvalue > 1e-3
    assert abs(np.mean(found) - np.mean(reference)) < 0.2 * np.std(reference) + 0.1


def test_bright_pixels_follow_the_original_distribution(drawn):
    golden, pixels, _ = drawn
    share = (pixels > 64).mean((1, 2))
    measured = golden["foreground_fraction_gt64"]
    counts = np.histogram(share, measured["hist_edges"])[0]
    assert counts.sum() > 0.97 * len(share)
    table = np.array([counts, measured["hist_counts"]])
    table = table[:, table.sum(0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert (pixels > 0).mean() == pytest.approx(golden["foreground_fraction_gt0"]["mean"], rel=0.03)


def test_brightness_follows_the_original(drawn):
    golden, pixels, labels = drawn
    scaled = pixels / 255
    assert scaled.mean() == pytest.approx(golden["pixel_mean_0_1"], rel=0.02)
    assert scaled.std() == pytest.approx(golden["pixel_std_0_1"], rel=0.02)
    assert scaled[scaled > 0].mean() == pytest.approx(golden["mean_of_nonzero_0_1"], rel=0.03)
    assert pixels.max((1, 2)).min() == 255
    assert pixels.min() == 0
    assert scaled[labels == 0].mean() == pytest.approx(scaled[labels == 1].mean(), rel=0.03)
    assert stats.binomtest(int(labels.sum()), len(labels)).pvalue > 1e-3


def test_pairs_succeed_as_rarely_as_the_original_ones():
    """The original needed 327 attempts an image at 32 pixels (1,000 images), 8 at 256 (100 images)."""
    for size, attempts, rounds in ((32, STATS[GOLDEN[32]]["two_snake_attempts_per_image"], 40), (256, 8.0, 2)):
        shapes, stream = make_shapes(VARIANTS[size], VARIANTS[size].margins[0]), Generator(Philox(3))
        succeeded = sum(len(grow_pairs(shapes, 14, stream)[0].starts[0]) for _ in range(rounds))
        assert stats.binomtest(succeeded, rounds * ATTEMPTS, 1 / attempts).pvalue > 1e-3


def test_snakes_are_chains_that_do_not_collide():
    """Each paddle starts at most two steps from the last; overlapping the others stays below 1.8."""
    shapes = make_shapes(VARIANTS[128], 3)
    space, snakes = target_pairs(shapes, 6, 5, Generator(Philox(1)))
    assert len(space.taken) == 5
    reach = 2 * (5 + 2 * 3) + 2
    for snake in snakes:
        starts = np.stack(snake.starts, 1)
        assert starts.shape == (5, 6, 2)
        assert (starts >= 0).all()
        assert (starts < 128).all()
        assert (np.abs(np.diff(starts, axis=1)).max(2) <= reach).all()
    tails = [snake.starts[0] for snake in snakes]
    assert np.abs(np.hypot(*(tails[0] - tails[1]).T) - 20).max() < 1


@pytest.mark.parametrize(("size", "margin"), [(32, 1), (64, 1), (128, 2), (128, 3), (256, 3)])
def test_lists_of_paddles_answer_as_images_do(size, margin):
    """Random paddles, also at the border and on top of each other: what is taken is the same in both forms."""
    shapes, stream = make_shapes(VARIANTS[size], margin), np.random.default_rng(7)
    rows, some = np.arange(40), np.arange(0, 40, 3)
    space, trails = Space.empty(shapes, len(rows)), Trails.empty(shapes, len(rows), 6)
    answers = []
    for _ in range(6):
        points = stream.integers(0, min(size, 40), (len(rows), 2))
        orientations = stream.integers(0, len(shapes.drawings), len(rows))
        for occupancy in (space, trails):
            occupancy.enter(rows, points, orientations)
        pivots = points[some] + stream.integers(-9, 10, (len(some), 2))
        turned = stream.integers(0, len(shapes.drawings), len(some))
        starts = pivots.clip(0, size - 1)
        assert np.array_equal(space.nearness(some, pivots), trails.nearness(some, pivots))
        answers.append(space.collide(some, starts, turned))
        assert np.array_equal(answers[-1], trails.collide(some, starts, turned))
    assert 0 < np.mean(answers) < 1


def test_tables_agree_with_the_geometry():
    shapes = make_shapes(VARIANTS[128], 2)
    radius = np.hypot(*(shapes.candidates + 0.5).T)
    assert np.abs(radius - 7).max() < 1.1
    assert shapes.weights.shape == (SEEDS + len(shapes.candidates), len(shapes.candidates))
    straight = shapes.weights[SEEDS + np.arange(len(shapes.candidates)), np.arange(len(shapes.candidates))]
    assert np.allclose(straight, 1)
    assert shapes.weights.min() < 1e-30
    east = 180
    assert shapes.head[east].tolist() == [0, 5]
    assert shapes.pivot[east].tolist() == [0, -2]
    assert shapes.advance[east].tolist() == [0, 9]
    drawing = shapes.drawings[east]
    middle = shapes.reach
    assert drawing[middle, middle : middle + 5].min() > 0.8
    assert drawing[:, : middle - 2].max() < 0.1


def test_room_is_what_every_pixel_says():
    """A first paddle fits where each pixel it needs is free, which a plain loop over pixels finds too."""
    shapes = make_shapes(VARIANTS[32], 1)
    space, _ = target_pairs(shapes, 6, 1, Generator(Philox(2)))
    taken = space.taken[0].reshape(shapes.stride, shapes.stride)
    for turned in np.flatnonzero(shapes.possible)[:3]:
        found = has_clearance(space, np.array([0]), np.arange(32 * 32)[None], np.array([turned]))[0].reshape(32, 32)
        offsets = shapes.need.offsets[turned][shapes.need.values[turned] > 0]
        for row, column in ((0, 0), (16, 16), (9, 23), (31, 31)):
            start = (row + shapes.pad) * shapes.stride + column + shapes.pad
            assert found[row, column] == (taken.ravel()[start + offsets] <= 76).all()


def test_dilation_is_a_maximum_over_a_disc():
    image = np.zeros((9, 9), np.uint8)
    image[4, 4], image[0, 0] = 200, 100
    expected = ndimage.grey_dilation(image, footprint=np.hypot(*np.mgrid[-2:3, -2:3]) <= 2, mode="constant")
    assert np.array_equal(dilate(image, 2), expected)


def test_path_x_takes_a_fiftieth_of_the_original_time():
    """It needs 2,000 CPU ms for an image of 128 pixels where it is fastest; 40 leave a margin for a loaded machine."""
    for margin in (2, 3):
        make_shapes(VARIANTS[128], margin)
    started = time.process_time()
    draw_block(3, 0, 128, 14)
    assert (time.process_time() - started) / 50 < 0.04


def test_blocks_depend_on_their_arguments_exclusive():
    first, again, other = (draw_block(5, block, 32, 6, 12) for block in (0, 0, 1))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.pixels, other.pixels)


PREPARE = """
import sys
import time
from pathlib import Path
from lra.tasks.pathfinder.task import Pathfinder
if __name__ == "__main__":
    task = Pathfinder(images=120, difficulty="curv_baseline")
    print(task.prepare(Path(sys.argv[1]), workers=2, quiet=True).fingerprint)
"""


def test_generated_data_does_not_depend_on_the_processes(tmp_path):
    task = Pathfinder(images=120, difficulty="curv_baseline")
    fingerprint = task.prepare(tmp_path / "one", workers=1, quiet=True).fingerprint
    (tmp_path / "prepare.py").write_text(PREPARE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[3] / p) for p in ("", "kernels"))
    }
    command = [sys.executable, str(tmp_path / "prepare.py"), str(tmp_path / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint
    data = task.load(tmp_path / "one")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 96, "val": 12, "test": 12}
    batch = data.collate([data.splits["val"][index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 1, 32, 32)
    assert 0 <= batch["pixel_values"].min() < batch["pixel_values"].max() == 1


def make_archive(folder: Path, numpy_metadata: bool) -> tuple[np.ndarray, list[int]]:
    """A small copy of the benchmark's layout: two batches of 10 images."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (20, 32, 32)).astype(np.uint8), rng.integers(0, 2, 20).tolist()
    (folder / "metadata").mkdir(parents=True)
    for batch, name in enumerate((2, 10)):
        rows = []
        (folder / "imgs" / str(name)).mkdir(parents=True)
        for index in range(10):
            place = batch * 10 + index
            Image.fromarray(pixels[place]).save(folder / "imgs" / str(name) / f"sample_{index}.png")
            rows.append([f"imgs/{name}", f"sample_{index}.png", str(index), str(labels[place]), "1.0", "14", "4"])
        if numpy_metadata:
            np.save(folder / "metadata" / f"{name}.npy", np.array(rows))
        else:
            (folder / "metadata" / f"{name}.npy").write_text("".join(" ".join(row) + "\n" for row in rows))
    return pixels, labels


@pytest.mark.parametrize("numpy_metadata", [True, False], ids=["numpy", "text"])
@pytest.mark.parametrize(
    "nesting", ["", "pathfinder32/curv_contour_length_14", "lra_release/lra_release/pathfinder32/"]
)
def test_the_benchmark_folders_are_read(tmp_path, numpy_metadata, nesting):
    inside = nesting + "curv_contour_length_14" if nesting.endswith("/") else nesting
    pixels, labels = make_archive(tmp_path / "source" / inside, numpy_metadata)
    task = Pathfinder(source=str(tmp_path / "source"))
    task.prepare(tmp_path / "data", quiet=True)
    data = task.load(tmp_path / "data")
    order = torch.randperm(20, generator=torch.Generator().manual_seed(42)).tolist()
    assert [len(rows) for rows in data.splits.values()] == [16, 2, 2]
    rows = [data.splits[split][index] for split in data.splits for index in range(len(data.splits[split]))]
    for row, place in zip(rows, order, strict=True):
        assert np.array_equal(row["pixels"], pixels[place])
        assert row["labels"] == labels[place]


def make_mega(folder: Path) -> np.ndarray:
    """A small copy of MEGA's layout: 6, 2 and 3 images."""
    pixels = np.random.default_rng(1).integers(0, 256, (11, 32, 32)).astype(np.uint8)
    for name in ("input", "label"):
        (folder / name).mkdir(parents=True)
    for name, part in (("train", slice(6)), ("valid", slice(6, 8)), ("test", slice(8, 11))):
        lines = [" ".join(map(str, image.ravel())) for image in pixels[part]]
        (folder / "input" / f"{name}.src").write_text("\n".join(lines) + "\n")
        (folder / "label" / f"{name}.label").write_text("".join(f"{index % 2}\n" for index in range(len(lines))))
    return pixels


def test_mega_files_are_read_with_their_splits(tmp_path):
    pixels = make_mega(tmp_path / "source")
    task = Pathfinder(source=str(tmp_path / "source"), convention="mega")
    task.prepare(tmp_path / "data", quiet=True)
    data = task.load(tmp_path / "data")
    assert [len(rows) for rows in data.splits.values()] == [6, 2, 3]
    assert np.array_equal(data.splits["test"][2]["pixels"], pixels[10])
    assert data.splits["val"][1]["labels"] == 1
    assert data.collate([data.splits["train"][0]])["pixel_values"].min() >= -1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("input/valid.src", "1 2 3\n", r"valid.src: received line 1 of 3 values"),
        ("input/valid.src", "256 " * 1024 + "\n", r"valid.src: received line 1 of 1024 values"),
        ("input/test.src", "9 " * 1024 + "\n", r"test.src: received 1 lines; wanted 3, one for each label"),
        ("label/test.label", "1\n", r"test.src: received line 2 of 1024 values, with 1 labels in all"),
        ("label/test.label", "1\nx\n1\n", r"test.label: received a line that is no label"),
    ],
)
def test_damaged_mega_files_are_rejected(tmp_path, name, content, message):
    make_mega(tmp_path / "source")
    (tmp_path / "source" / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        Pathfinder(source=str(tmp_path / "source")).prepare(tmp_path / "data", quiet=True)


def damage_label(folder: Path) -> None:
    path = folder / "metadata" / "2.npy"
    path.write_text(path.read_text().replace("sample_3.png 3 ", "sample_3.png 3 7"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_label, r"2.npy: received line 4: .*; wanted folder, file, number, label 0 or 1"),
        (lambda f: (f / "imgs/2/sample_0.png").unlink(), r"sample_0.png: received no readable image"),
        (lambda f: (f / "imgs/2/sample_0.png").write_bytes(b"\x89PNG"), r"sample_0.png: received no readable image"),
        (lambda f: Image.new("L", (9, 9)).save(f / "imgs/2/sample_0.png"), r"\(9, 9\) pixels; wanted \(32, 32\)"),
        (lambda f: [p.unlink() for p in (f / "metadata").iterdir()], r"no .npy file in .*metadata"),
    ],
)
def test_damaged_folders_are_rejected(tmp_path, damage, message):
    make_archive(tmp_path / "source", numpy_metadata=False)
    damage(tmp_path / "source")
    with pytest.raises(ValueError, match=message):
        Pathfinder(source=str(tmp_path / "source")).prepare(tmp_path / "data", quiet=True)
    assert list((tmp_path / "data").iterdir()) == []


def test_batches_are_read_in_the_order_of_their_numbers(tmp_path):
    make_archive(tmp_path, numpy_metadata=False)
    assert [path.parent.name for path, _ in read_metadata(tmp_path)] == ["2"] * 10 + ["10"] * 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 48}, r"size='48'; wanted one of 32, 64, 128, 256"),
        ({"difficulty": "hard"}, r"difficulty='hard'; wanted one of curv_baseline"),
        ({"convention": "s5"}, r"convention='s5'; wanted one of s4, mega, jax"),
        ({"images": 15}, r"images=15, seed=0; wanted a multiple of 10"),
    ],
)
def test_wrong_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        Pathfinder(**options)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"no metadata of 32 pixels in .*pathfinder32/curv_contour_length_14.*lra_release.gz \(https"
    ):
        Pathfinder(source=str(tmp_path)).prepare(tmp_path / "data", quiet=True)


def test_scalings_of_the_conventions():
    rows = [PixelDataset(np.array([[[0, 255]]], np.uint8), np.array([1]))[0]]
    assert PixelCollate("unit")(rows)["pixel_values"].tolist() == [[[[0.0, 1.0]]]]
    assert PixelCollate("centred")(rows)["pixel_values"].tolist() == [[[[-1.0, 1.0]]]]
    assert PixelCollate("tokens")(rows)["input_ids"].tolist() == [[0, 255]]
    cifar = PixelCollate("cifar")(rows)["pixel_values"].flatten()
    assert torch.allclose(cifar, torch.tensor([-122.6 / 61, (255 - 122.6) / 61]))


def test_splits_cover_everything_once():
    orders = split_orders(200, permute=True)
    assert [len(order) for order in orders.values()] == [160, 20, 20]
    assert sorted(np.concatenate(list(orders.values())).tolist()) == list(range(200))
