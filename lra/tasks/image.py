"""Image: CIFAR-10 pixel by pixel, in rows; in grey as in Long Range Arena, or in colour (sequential CIFAR).

Conventions: ``s4`` scales with mean 122.6 and deviation 61.0 (of 255) and takes 10 % of the training images for
validation by a random permutation with seed 42; ``mega`` scales with 0.48 and 0.24; ``jax`` makes each grey value a
token and takes the last 10 %. MEGA's files have their own splits. In colour each channel is scaled by its own mean and
deviation (``s5/dataloaders/basic.py`` of lindermanlab/S5 at d133f4d, after S4), with the split of ``s4``.
The original pickles are read without unpickling anything but arrays and strings.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from ..data.files import require_label
from ..data.layouts import CIFAR, find
from ..data.pixels import MEGA_SPLITS, PixelCollate, PixelDataset, in_mega_layout, mega_rows
from ..data.store import Manifest
from ..data.tables import hub_rows, parquet_files, parquet_rows
from .base import Task, TaskData, one_of

HUB = "uoft-cs/cifar10"
COLUMNS = ("img", "label")
SIDE, CLASSES = 32, 10
SCALING = {"s4": "cifar", "mega": "cifar-mega", "jax": "tokens"}
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
LAYOUTS = ("", "cifar-10-batches-py", "cifar-10-batches-py/cifar-10-batches-py")
REMEDY = f"give the folder of cifar-10-batches-py, or of train*.parquet and test*.parquet; get them from {CIFAR}"
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""All that a pickle of the data set may call."""


@dataclass(frozen=True)
class Image(Task):
    """CIFAR-10.

    Attributes:
        convention: ``s4``, ``mega`` or ``jax``; in colour ``s4`` alone.
        colour: three numbers a pixel instead of its grey value.
        source: folder with ``cifar-10-batches-py``, with parquet files, or with MEGA's; ``datasets`` fetches it if
            empty.
    """

    summary: ClassVar[str] = "grey CIFAR-10 pixel by pixel, 10 classes, 1,024 tokens"

    convention: str = "s4"
    colour: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        one_of("image", "convention", self.convention, ("s4",) if self.colour else tuple(SCALING))

    @property
    def name(self) -> str:
        return "scifar" if self.colour else "image"

    def parameters(self) -> dict[str, Any]:
        return {"source": str(Path(self.source).resolve()) if self.source else HUB}

    def total(self) -> int:
        return 2

    def _bytes(self) -> int:
        return 60_000 * (SIDE**2 * (3 if self.colour else 1) + 8)

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        sizes = {}
        own = bool(self.source) and in_mega_layout(Path(self.source))
        if own and self.colour:
            raise argument_error("prepare scifar", "MEGA's files, which are grey", "images in colour", REMEDY)
        for split in MEGA_SPLITS if own else ("train", "test"):
            rows = list(self._mega_rows(split) if own else self._rows(split))
            if not rows:
                raise argument_error(f"prepare {self.name}", f"no rows of {split}", "pictures with labels", REMEDY)
            np.save(folder / f"{split}.pixels.npy", np.stack([pixels for pixels, _ in rows]), allow_pickle=False)
            np.save(folder / f"{split}.labels.npy", np.array([y for _, y in rows], np.int64), allow_pickle=False)
            sizes[split] = len(rows)
            advance(1)
        return sizes

    def _rows(self, split: str) -> Iterator[tuple[NDArray[np.uint8], int]]:
        for colours, label in self._colours(split):
            yield (colours if self.colour else grey(colours)), label

    def _colours(self, split: str) -> Iterator[tuple[NDArray[np.uint8], int]]:
        source = Path(self.source)
        if self.source and not parquet_files(source, split):
            for name in BATCHES[split]:
                yield from read_batch(find(self.name, source, LAYOUTS, name, REMEDY))
            return
        rows = parquet_rows(source, split, COLUMNS) if self.source else hub_rows(self.name, HUB, split, COLUMNS)
        for number, (image, label) in enumerate(rows):
            place = f"{split} row {number}"
            yield decode_picture(image, place, SIDE, "RGB"), require_label(label, CLASSES, place)

    def _mega_rows(self, split: str) -> Iterator[tuple[NDArray[np.uint8], int]]:
        for number, (image, label) in enumerate(mega_rows(Path(self.source), split, SIDE), 1):
            yield image, require_label(label, CLASSES, f"{self.source}, {split} label {number}")

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        splits = self._splits(folder, manifest)
        answers = {split: rows.labels[rows.order] for split, rows in splits.items()}
        majority = np.bincount(answers["train"], minlength=CLASSES).argmax()
        return TaskData(
            splits=splits,
            collate=PixelCollate("cifar-colour" if self.colour else SCALING[self.convention]),
            kind="sequence" if self.convention == "jax" else "image",
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
            facts={"image_size": SIDE} | ({"num_channels": 3} if self.colour else {}),
        )

    def _splits(self, folder: Path, manifest: Manifest) -> dict[str, PixelDataset]:
        stored = {
            split: PixelDataset(
                *(np.load(folder / f"{split}.{part}.npy", allow_pickle=False) for part in ("pixels", "labels"))
            )
            for split in manifest.sizes
        }
        if "val" in stored:
            return {split: stored[split] for split in MEGA_SPLITS}
        rows = stored["train"]
        order, kept = np.arange(len(rows)), int(len(rows) * 0.9)
        if self.convention != "jax":
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).numpy()
        train, val = (PixelDataset(rows.pixels, rows.labels, part) for part in (order[:kept], order[kept:]))
        return {"train": train, "val": val, "test": stored["test"]}


def grey(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (ITU-R 601) of ``(..., 3)`` bytes, rounded as PIL does."""
    red, green, blue = (colours[..., channel].astype(np.uint32) for channel in range(3))
    luma: NDArray[np.uint8] = ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)
    return luma


def read_batch(path: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Images ``(32, 32, 3)`` and labels of one of the original pickles.

    Raises:
        ValueError: damaged, of another content, or it would call anything but what arrays need.
    """
    remedy = "take a fresh copy of the file"
    try:
        content = _ArraysOnly(BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = np.asarray(content[b"data"]), list(content[b"labels"])
        colours = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        got = f"no batch of CIFAR-10 ({error})"
        raise argument_error(f"read {path}", got, "a pickled dictionary with data and labels", remedy) from error
    if len(colours) != len(labels) or pixels.dtype != np.uint8:
        got = f"{pixels.dtype} data of {len(colours)} images with {len(labels)} labels"
        raise argument_error(f"read {path}", got, "bytes, and a label for each image", remedy)
    for number, (image, label) in enumerate(zip(colours, labels, strict=True)):
        yield image, require_label(label, CLASSES, f"{path}, image {number}")


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays, strings and containers; anything else could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not read")
        return super().find_class(module, name)


def decode_picture(image: Any, place: str, side: int, mode: str) -> NDArray[np.uint8]:
    """Bytes of a picture as data sets of the hub store it, in PIL's mode ``"RGB"`` or ``"L"``.

    Raises:
        ValueError: unreadable, or of another size.
    """
    from PIL import Image as Pictures
    from PIL import UnidentifiedImageError

    try:
        picture = Pictures.open(BytesIO(image["bytes"])) if isinstance(image, Mapping) else image
        pixels = np.array(picture.convert(mode))
    except (OSError, UnidentifiedImageError, KeyError, TypeError, AttributeError) as error:
        raise argument_error("read image", f"{place}: no readable image", "a PNG", "take a fresh copy") from error
    wanted = (side, side, 3) if mode == "RGB" else (side, side)
    if pixels.shape != wanted:
        raise argument_error("read image", f"{place}: {pixels.shape}", str(wanted), "take a fresh copy")
    return pixels
