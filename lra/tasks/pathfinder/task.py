"""Pathfinder, Path-X and their sizes as tasks: generated, or read from the benchmark's folders.

Conventions: ``s4`` scales pixels to [0, 1], ``mega`` (and S5) to [-1, 1], ``jax`` makes each grey value a token.
The benchmark's folders are put in the order of their batches and split 80 : 10 : 10 by a random permutation with seed
42, as S4 does; MEGA's files bring their splits; generated images are split in the order they were drawn.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from ...data.layouts import find, unpacked
from ...data.parallel import in_order
from ...data.pixels import MEGA_SPLITS, PixelCollate, PixelDataset, count_mega_rows, in_mega_layout, mega_rows
from ...data.store import Manifest, allocate
from ..base import Task, TaskData, one_of
from .images import BLOCK, DIFFICULTIES, draw_block
from .shapes import VARIANTS

SCALING = {"s4": "unit", "mega": "centred", "jax": "tokens"}
NAMES = {32: "pathfinder", 64: "pathfinder64", 128: "pathx", 256: "path256"}
Orders = dict[str, NDArray[np.int64]]
"""Positions of the images of each split."""
LABEL = 3
"""Column of the label in the metadata."""


@dataclass(frozen=True)
class Pathfinder(Task):
    """Pathfinder.

    Attributes:
        size: side of the images: 32, 64, 128 (Path-X) or 256.
        difficulty: ``curv_baseline``, ``curv_contour_length_9`` or ``curv_contour_length_14`` (the published one).
        images: in all; train, validation and test take 80, 10 and 10 %.
        seed: of the generator.
        convention: ``s4``, ``mega`` or ``jax``.
        source: folder with the benchmark's images, or with MEGA's files, instead of generating.
    """

    summary: ClassVar[str] = "are the two marked ends on one curve? 2 classes, pixel by pixel"

    size: int = 32
    difficulty: str = "curv_contour_length_14"
    images: int = 200_000
    seed: int = 0
    convention: str = "s4"
    source: str = ""

    def __post_init__(self) -> None:
        one_of("pathfinder", "size", str(self.size), tuple(map(str, VARIANTS)))
        one_of("pathfinder", "difficulty", self.difficulty, tuple(DIFFICULTIES))
        one_of("pathfinder", "convention", self.convention, tuple(SCALING))
        if self.images < 10 or self.images % 10 or self.seed < 0:
            got = f"images={self.images}, seed={self.seed}"
            raise argument_error("pathfinder", got, "a multiple of 10 and a seed of at least 0", "correct the options")

    @property
    def name(self) -> str:
        return NAMES[self.size]

    def parameters(self) -> dict[str, Any]:
        if self.source:
            return {"source": str(Path(self.source).resolve()), "size": self.size, "difficulty": self.difficulty}
        return {"size": self.size, "difficulty": self.difficulty, "images": self.images, "seed": self.seed}

    def total(self) -> int:
        return self.images

    def _bytes(self) -> int:
        return self.images * (self.size**2 + 16)

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        orders, batches = self._content(workers)
        count = sum(map(len, orders.values()))
        pixels = allocate(folder / "pixels.npy", np.uint8, (count, self.size, self.size))
        labels, done = np.zeros(count, np.int64), 0
        for some, answers in batches:
            some, answers = some[: count - done], answers[: count - done]
            pixels[done : done + len(some)], labels[done : done + len(some)] = some, answers
            done += len(some)
            advance(len(some))
        pixels.flush()  # type: ignore[attr-defined]  # it is a memory map
        np.save(folder / "labels.npy", labels, allow_pickle=False)
        for split, order in orders.items():
            np.save(folder / f"{split}.order.npy", order, allow_pickle=False)
        return {split: len(order) for split, order in orders.items()}

    def _content(self, workers: int) -> tuple[Orders, Iterator[tuple[Any, Any]]]:
        """Positions of each split, and some images with their labels at a time."""
        source = Path(self.source)
        if not self.source:
            paddles, blocks = DIFFICULTIES[self.difficulty], -(-self.images // BLOCK)
            drawn = in_order(draw_block, ((self.seed, block, self.size, paddles) for block in range(blocks)), workers)
            return split_orders(self.images, permute=False), ((block.pixels, block.labels) for block in drawn)
        if in_mega_layout(source):
            bounds = np.cumsum([0, *(count_mega_rows(source, split) for split in MEGA_SPLITS)]).tolist()
            rows = (row for split in MEGA_SPLITS for row in mega_rows(source, split, self.size))
            orders = {split: np.arange(bounds[i], bounds[i + 1]) for i, split in enumerate(MEGA_SPLITS)}
            return orders, ((image[None], [label]) for image, label in rows)
        listed = list(read_metadata(find_images(source, self.size, self.difficulty)))
        read = ((read_image(path, self.size)[None], [label]) for path, label in listed)
        return split_orders(len(listed), permute=True), read

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        orders = {split: np.load(folder / f"{split}.order.npy", allow_pickle=False) for split in MEGA_SPLITS}
        majority = np.bincount(labels[orders["train"]], minlength=2).argmax()
        return TaskData(
            splits={split: PixelDataset(pixels, labels, order) for split, order in orders.items()},
            collate=PixelCollate(SCALING[self.convention]),
            kind="sequence" if self.convention == "jax" else "image",
            classes=2,
            vocab_size=256,
            pad_id=None,
            eos_id=None,
            max_length=self.size**2,
            baselines={
                split: {"chance": 0.5, "majority class": float(np.mean(labels[orders[split]] == majority))}
                for split in ("val", "test")
            },
            fingerprint=manifest.fingerprint,
            origin=self.source or f"generated, {self.difficulty}, seed {self.seed}",
            facts={"image_size": self.size},
        )


def split_orders(count: int, permute: bool) -> Orders:
    """Positions of each split: 80, 10 and 10 %, permuted with seed 42 if asked for."""
    order = np.arange(count)
    if permute:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(42)).numpy()
    first, second = int(count * 0.8), int(count * 0.1)
    return {"train": order[:first], "val": order[first : first + second], "test": order[first + second :]}


def find_images(source: Path, size: int, difficulty: str) -> Path:
    """The folder of a size and difficulty: in ``source`` itself, or in the archive unpacked once or twice nested.

    Raises:
        ValueError: not there.
    """
    layouts = ("", difficulty, *unpacked(f"pathfinder{size}/{difficulty}"))
    remedy = "give the folder that holds imgs and metadata, or lra_release"
    return find("pathfinder", source, layouts, "metadata", remedy).parent


def read_metadata(folder: Path) -> Iterator[tuple[Path, int]]:
    """Image and label in the order of the batches; plain text and NumPy string arrays are both read.

    Raises:
        ValueError: no batches, a line that is cut off, or a label that is neither 0 nor 1.
    """
    batches = sorted((folder / "metadata").glob("*.npy"), key=lambda path: int(path.stem))
    if not batches:
        remedy = "unpack the archive again"
        raise argument_error("read pathfinder", f"no .npy file in {folder / 'metadata'}", "one per batch", remedy)
    for batch in batches:
        for number, row in enumerate(_metadata_rows(batch), 1):
            if len(row) <= LABEL or row[LABEL] not in ("0", "1"):
                wanted = "folder, file, number, label 0 or 1, and more"
                raise argument_error(
                    f"read {batch}", f"line {number}: {' '.join(row)!r}", wanted, "unpack the archive again"
                )
            yield folder / row[0] / row[1], int(row[LABEL])


def _metadata_rows(path: Path) -> list[list[str]]:
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            return [[str(cell) for cell in row] for row in np.load(path, allow_pickle=False)]
    return [line.split() for line in path.read_text().splitlines()]


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """A grey image.

    Raises:
        ValueError: missing, damaged, or of another size.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        pixels = np.array(Image.open(path).convert("L"))
    except (OSError, UnidentifiedImageError) as error:
        raise argument_error(
            f"read {path}", f"no readable image ({error})", "a PNG", "unpack the archive again"
        ) from error
    if pixels.shape != (size, size):
        raise argument_error(
            f"read {path}", f"{pixels.shape} pixels", f"({size}, {size})", f"set size={pixels.shape[0]}"
        )
    return pixels
