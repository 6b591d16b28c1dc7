"""Sequential and permuted MNIST and CIFAR in colour: small data in exactly the public formats."""

import gzip
import pickle
import struct
from io import BytesIO

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image as Pictures
from pyarrow import parquet

from lra.models.build import build_model
from lra.recipes.catalog import create_recipe
from lra.tasks import create_task
from lra.tasks.mnist import IMAGES, LABELS, pixel_order

DIGITS = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
CLASSES = np.arange(30) % 10


def idx(magic: int, values: np.ndarray) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", magic, *values.shape) + values.astype(np.uint8).tobytes()


def make_idx(folder, packed=False, images=IMAGES):
    folder.mkdir(parents=True)
    for name, part in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        for kind, content in (("images-idx3", idx(images, DIGITS[part])), ("labels-idx1", idx(LABELS, CLASSES[part]))):
            path = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)


def make_pictures(folder, column, colours):
    (folder / "data").mkdir(parents=True)
    for split, part in (("train", slice(0, 20)), ("test", slice(20, 30))):
        images = []
        for pixels in colours[part]:
            buffer = BytesIO()
            Pictures.fromarray(pixels).save(buffer, format="PNG")
            images.append({"bytes": buffer.getvalue(), "path": None})
        table = pyarrow.table({column: images, "label": CLASSES[part]})
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


def load(name, tmp_path, **options):
    task = create_task(name, {"source": str(tmp_path / "source"), **options})
    task.prepare(tmp_path / "data", quiet=True)
    return task.load(tmp_path / "data")


def make_raw(root):
    make_idx(root / "MNIST" / "raw")


def make_packed(root):
    make_idx(root, packed=True)


def make_parquet(root):
    make_pictures(root, "image", DIGITS)


@pytest.mark.parametrize("make", [make_raw, make_packed, make_parquet])
def test_digits_are_read_in_rows(tmp_path, make):
    make(tmp_path / "source")
    data = load("smnist", tmp_path)
    drawn = torch.randperm(20, generator=torch.Generator().manual_seed(42)).tolist()
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 18, "val": 2, "test": 10}
    for split, places in (("train", drawn[:18]), ("val", drawn[18:]), ("test", range(20, 30))):
        batch = data.collate([data.splits[split][i] for i in range(len(places))])
        want = torch.from_numpy(DIGITS[list(places)])[:, None] / 255
        torch.testing.assert_close(batch["pixel_values"], want)
        assert batch["labels"].tolist() == CLASSES[list(places)].tolist()


@pytest.mark.parametrize("order", ["bit-reversal", "92916"])
def test_permuted_digits_have_the_same_pixels_in_a_fixed_order(tmp_path, order):
    make_idx(tmp_path / "source")
    data = load("pmnist", tmp_path, order=order)
    pixels = data.splits["test"][3]["pixels"].ravel()
    assert np.array_equal(pixels, DIGITS[23].ravel()[pixel_order(order)])
    assert sorted(pixel_order(order)) == list(range(784))


def test_the_orders_of_the_pixels():
    assert pixel_order("bit-reversal")[:6].tolist() == [0, 512, 256, 768, 128, 640]
    assert 783 in pixel_order("bit-reversal")
    assert pixel_order("92916").tolist() == np.random.RandomState(92916).permutation(784).tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"begin with 00000803; wanted the magic number"),
        (lambda path: path.write_bytes(b"no"), r"2 bytes that begin with 6e6f"),
        (lambda path: path.write_bytes(idx(IMAGES, DIGITS[:3])), r"images of shape \(3, 28, 28\) with 20 labels"),
        (lambda path: path.write_bytes(idx(IMAGES, DIGITS[:20, :9])), r"images of shape \(20, 9, 28\)"),
        (lambda path: path.write_bytes(idx(IMAGES, DIGITS[:0])), r"images of shape \(0, 28, 28\)"),
        (lambda path: path.unlink(), r"prepare smnist: received no train-images-idx3-ubyte.*Remedy"),
        (lambda path: path.rename(f"{path}.gz"), r"no readable gzip file"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    make_idx(tmp_path / "source")
    damage(tmp_path / "source" / "train-images-idx3-ubyte")
    with pytest.raises(ValueError, match=message):
        load("smnist", tmp_path)
    with pytest.raises(ValueError, match=r"mnist: received order='columns'; wanted one of rows, bit-reversal, 92916"):
        create_task("smnist", {"order": "columns"})


COLOURS = np.random.default_rng(1).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)


def make_cifar(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        part = COLOURS[10 * number : 10 * number + 10].transpose(0, 3, 1, 2).reshape(10, -1)
        (folder / name).write_bytes(pickle.dumps({b"data": part, b"labels": list(range(10))}, protocol=2))


def test_cifar_in_colour_is_scaled_channel_by_channel(tmp_path):
    make_cifar(tmp_path / "source")
    data = load("scifar", tmp_path)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 45, "val": 5, "test": 10}
    pixels = data.collate([data.splits["test"][4]])["pixel_values"][0]
    mean, deviation = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.243, 0.261])
    want = (torch.from_numpy(COLOURS[54]).permute(2, 0, 1) / 255 - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(pixels, want)
    with pytest.raises(ValueError, match=r"convention='jax'; wanted one of s4"):
        create_task("scifar", {"convention": "jax"})


@pytest.mark.parametrize(("name", "make", "length"), [("scifar", make_cifar, 1024), ("pmnist", make_raw, 784)])
def test_models_read_them_pixel_by_pixel(tmp_path, name, make, length):
    make(tmp_path / "source")
    data = load(name, tmp_path)
    recipe = create_recipe(name, "s4d").override({"d_model": 4, "n_layers": 1, "mixer.d_state": 4})
    model = build_model(recipe, data)
    batch = data.collate([data.splits["train"][i] for i in range(2)])
    assert data.max_length == length
    assert model.config.num_channels == (3 if name == "scifar" else 1)
    output = model(**batch)
    assert output.logits.shape == (2, 10)
    assert output.loss.isfinite()


@pytest.mark.parametrize(("task", "column"), [("smnist", "image"), ("scifar", "img")])
@pytest.mark.parametrize(("pictures", "message"), [([b"no picture"], "no readable image"), ([], "no rows of train")])
def test_tables_without_pictures_are_named(tmp_path, task, column, pictures, message):
    labels = pyarrow.array([1] * len(pictures), pyarrow.int64())
    (tmp_path / "source").mkdir()
    for split in ("train", "test"):
        values = pyarrow.table({column: pyarrow.array(pictures, pyarrow.binary()), "label": labels})
        parquet.write_table(values, tmp_path / "source" / f"{split}-0.parquet")
    with pytest.raises(ValueError, match=message):
        load(task, tmp_path)
