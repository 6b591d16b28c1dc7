"""Sequential and permuted MNIST: digits pixel by pixel, in rows or in a fixed other order.

Pixels are scaled to [0, 1]; 10 % of the training images are for validation, by a random permutation with seed 42.
Orders of the 784 pixels: ``"rows"``, one after the other; ``"bit-reversal"``, in which the numbers below 1,024 with
their bits reversed are taken in turn, but for those beyond the image; ``"92916"``, the permutation that NumPy's
``RandomState(92916)`` draws.
Source: ``s5/dataloaders/basic.py`` and ``s5/utils/permutations.py`` of lindermanlab/S5 (commit d133f4d), which takes
the first permutation and mentions the second.
"""

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from ..data.files import FRESH, require_label
from ..data.layouts import find
from ..data.pixels import PixelCollate, PixelDataset
from ..data.store import Manifest
from ..data.tables import hub_rows, parquet_files, parquet_rows
from .base import Task, TaskData, one_of
from .image import decode_picture

HUB = "ylecun/mnist"
COLUMNS = ("image", "label")
SIDE, CLASSES = 28, 10
FILES = {"train": "train", "test": "t10k"}
LAYOUTS = ("", "raw", "MNIST/raw")
ORDERS = ("rows", "bit-reversal", "92916")
IMAGES, LABELS = 0x803, 0x801
"""Magic numbers: bytes along three axes, bytes along one."""
REMEDY = "give the folder of train-images-idx3-ubyte and the other three files, packed or not, or of parquet files"


@dataclass(frozen=True)
class Mnist(Task):
    """MNIST.

    Attributes:
        order: ``rows``, ``bit-reversal`` or ``92916``.
        source: folder with the four IDX files, or with parquet files; ``datasets`` fetches them if empty.
    """

    summary: ClassVar[str] = "digits pixel by pixel, 10 classes, 784 tokens"

    order: str = "rows"
    source: str = ""

    def __post_init__(self) -> None:
        one_of("mnist", "order", self.order, ORDERS)

    @property
    def name(self) -> str:
        return "smnist" if self.order == "rows" else "pmnist"

    def parameters(self) -> dict[str, Any]:
        return {"source": str(Path(self.source).resolve()) if self.source else HUB}

    def total(self) -> int:
        return 2

    def _bytes(self) -> int:
        return 70_000 * (SIDE**2 + 8)

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        sizes = {}
        for split in FILES:
            pixels, labels = self._arrays(split)
            np.save(folder / f"{split}.pixels.npy", pixels, allow_pickle=False)
            np.save(folder / f"{split}.labels.npy", labels, allow_pickle=False)
            sizes[split] = len(labels)
            advance(1)
        return sizes

    def _arrays(self, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        source = Path(self.source)
        if self.source and not parquet_files(source, split):
            return read_split(self.name, source, split)
        rows = parquet_rows(source, split, COLUMNS) if self.source else hub_rows(self.name, HUB, split, COLUMNS)
        pairs = list(_pictures(rows, split))
        if not pairs:
            raise argument_error(f"prepare {self.name}", f"no rows of {split}", "pictures with labels", FRESH)
        return np.stack([p for p, _ in pairs]), np.array([y for _, y in pairs], np.int64)

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        order = pixel_order(self.order)
        stored = {}
        for split in FILES:
            pixels, labels = (
                np.load(folder / f"{split}.{part}.npy", allow_pickle=False) for part in ("pixels", "labels")
            )
            stored[split] = PixelDataset(pixels.reshape(len(pixels), -1)[:, order].reshape(pixels.shape), labels)
        rows = stored["train"]
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).numpy()
        kept = int(len(rows) * 0.9)
        train, val = (PixelDataset(rows.pixels, rows.labels, part) for part in (drawn[:kept], drawn[kept:]))
        splits = {"train": train, "val": val, "test": stored["test"]}
        answers = {split: part.labels[part.order] for split, part in splits.items()}
        majority = np.bincount(answers["train"], minlength=CLASSES).argmax()
        return TaskData(
            splits=splits,
            collate=PixelCollate("unit"),
            kind="image",
            classes=CLASSES,
            vocab_size=256,
            pad_id=None,
            eos_id=None,
            max_length=SIDE**2,
            baselines={
                split: {"chance": 1 / CLASSES, "majority class": float(np.mean(answers[split] == majority))}
                for split in ("val", "test")
            },
            fingerprint=manifest.fingerprint,
            origin=manifest.parameters["source"],
            facts={"image_size": SIDE},
        )


def pixel_order(name: str) -> NDArray[np.int64]:
    """Which pixel of the rows comes at each place."""
    count = SIDE**2
    if name == "rows":
        return np.arange(count)
    if name == "92916":
        return np.random.RandomState(92916).permutation(count).astype(np.int64)
    bits = (count - 1).bit_length()
    places = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits)], np.int64)
    return places[places < count]


def read_split(task: str, source: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and labels of a split from IDX files.

    Raises:
        ValueError: a file is missing or damaged, of another kind, or there are more images than labels or fewer.
    """
    images_at, labels_at = (
        _place(task, source, f"{FILES[split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    images, labels = read_idx(images_at, IMAGES), read_idx(labels_at, LABELS)
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels) or len(images) == 0:
        got = f"images of shape {images.shape} with {len(labels)} labels"
        raise argument_error(f"read {images_at}", got, f"{SIDE} by {SIDE} pixels, and a label for each image", FRESH)
    checked = [require_label(int(y), CLASSES, f"{labels_at}, label {i}") for i, y in enumerate(labels)]
    return images, np.array(checked, np.int64)


def read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    """Bytes in the IDX format: a magic number and the sizes, 32 bits each, most significant first; then the values.

    Raises:
        ValueError: damaged, or of another kind.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise argument_error(f"read {path}", f"no readable gzip file ({error})", "a whole file", FRESH) from error
    axes = magic & 0xFF
    head = np.frombuffer(content[: 4 * (axes + 1)], ">u4") if len(content) >= 4 * (axes + 1) else np.zeros(1, ">u4")
    sizes = [int(n) for n in head[1:]]
    if head[0] != magic or len(content) != 4 * (axes + 1) + int(np.prod(sizes, dtype=np.int64)):
        got = f"{len(content)} bytes that begin with {content[:4].hex()}"
        raise argument_error(f"read {path}", got, f"the magic number {magic:08x}, {axes} sizes and the values", FRESH)
    return np.frombuffer(content, np.uint8, offset=4 * (axes + 1)).reshape(sizes)


def _place(task: str, source: Path, name: str) -> Path:
    for layout in LAYOUTS:
        for suffix in ("", ".gz"):
            if (source / layout / f"{name}{suffix}").exists():
                return source / layout / f"{name}{suffix}"
    return find(task, source, LAYOUTS, name, REMEDY)


def _pictures(rows: Iterator[tuple[Any, ...]], split: str) -> Iterator[tuple[NDArray[np.uint8], int]]:
    for number, (image, label) in enumerate(rows):
        place = f"{split} row {number}"
        yield decode_picture(image, place, SIDE, "L"), require_label(label, CLASSES, place)
