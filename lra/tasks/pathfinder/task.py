"""Pathfinder, Path-X and their sizes as tasks: generated, or read from the benchmark's folders.

Conventions: ``s4`` scales pixels to [0, 1], ``mega`` (and S5) to [-1, 1], ``jax`` makes each grey value a token.
The benchmark's folders are put in the order of their batches and split 80 : 10 : 10 by a random permutation with seed
42, as S4 does; MEGA's files have their own splits; generated images are split in the order they were drawn.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqconv_kernels._core.errors import argument_error

from ...data.files import require_label
from ...data.parallel import in_order
from ...data.pixels import MEGA_SPLITS, PixelCollate, PixelDataset, count_mega_rows, in_mega_layout, mega_rows
from ...data.store import Manifest, allocate
from ..base import Task, TaskData, one_of
from .images import BLOCK, DIFFICULTIES, draw_block
from .released import KNOWN_EMPTY, find_images, is_known_empty, read_image, read_metadata
from .shapes import VARIANTS

SCALING = {"s4": "unit", "mega": "centred", "jax": "tokens"}
NAMES = {32: "pathfinder", 64: "pathfinder64", 128: "pathx", 256: "path256", 512: "path512"}
Orders = dict[str, NDArray[np.int64]]
"""Positions of the images of each split."""
NOTES = "notes.json"
"""Which folder was read, and which images were left out."""
logger = logging.getLogger(__name__)


class Content(NamedTuple):
    """What is written into a prepared folder.

    Attributes:
        orders: positions of the images of each split.
        batches: images ``(n, size, size)`` and their labels, some at a time.
        origin: which files were read, which images were left out; or how they were generated.
    """

    orders: Orders
    batches: Iterator[tuple[Any, Any]]
    origin: str


@dataclass(frozen=True)
class Pathfinder(Task):
    """Pathfinder.

    Attributes:
        size: side of the images: 32, 64, 128 (Path-X), 256 or 512.
        difficulty: ``curv_baseline``, ``curv_contour_length_9`` or ``curv_contour_length_14`` (the published one).
        images: in all; train, validation and test take 80, 10 and 10 %.
        seed: of the generator.
        convention: ``s4``, ``mega`` or ``jax``.
        source: folder with the benchmark's images, or with MEGA's files, instead of generating.
        copy: ``inner`` or ``outer``, where the unpacked archive holds the images twice; empty takes the inner, as S4.
    """

    summary: ClassVar[str] = "are the two marked ends on one curve? 2 classes, pixel by pixel"

    size: int = 32
    difficulty: str = "curv_contour_length_14"
    images: int = 200_000
    seed: int = 0
    convention: str = "s4"
    source: str = ""
    copy: str = ""

    def __post_init__(self) -> None:
        one_of("pathfinder", "size", str(self.size), tuple(map(str, VARIANTS)))
        one_of("pathfinder", "difficulty", self.difficulty, tuple(DIFFICULTIES))
        one_of("pathfinder", "copy", self.copy, ("", "inner", "outer"))
        one_of("pathfinder", "convention", self.convention, tuple(SCALING))
        if self.images < 10 or self.images % 10 or self.seed < 0:
            got = f"images={self.images}, seed={self.seed}"
            raise argument_error("pathfinder", got, "a multiple of 10 and a seed of at least 0", "correct the options")

    @property
    def name(self) -> str:
        return NAMES[self.size]

    def parameters(self) -> dict[str, Any]:
        if self.source:
            read = {"source": str(Path(self.source).resolve()), "copy": self.copy}
            return {**read, "size": self.size, "difficulty": self.difficulty}
        return {"size": self.size, "difficulty": self.difficulty, "images": self.images, "seed": self.seed}

    def total(self) -> int:
        return self.images

    def _bytes(self) -> int:
        return self.images * (self.size**2 + 16)

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        content = self._content(workers)
        count = sum(map(len, content.orders.values()))
        pixels = allocate(folder / "pixels.npy", np.uint8, (count, self.size, self.size))
        labels, done = np.zeros(count, np.int64), 0
        for some, answers in content.batches:
            some, answers = some[: count - done], answers[: count - done]
            pixels[done : done + len(some)], labels[done : done + len(some)] = some, answers
            done += len(some)
            advance(len(some))
        pixels.flush()  # type: ignore[attr-defined]  # it is a memory map
        np.save(folder / "labels.npy", labels, allow_pickle=False)
        for split, order in content.orders.items():
            np.save(folder / f"{split}.order.npy", order, allow_pickle=False)
        (folder / NOTES).write_text(json.dumps({"origin": content.origin}))
        return {split: len(order) for split, order in content.orders.items()}

    def _content(self, workers: int) -> "Content":
        source = Path(self.source)
        if not self.source:
            paddles, blocks = DIFFICULTIES[self.difficulty], -(-self.images // BLOCK)
            drawn = in_order(draw_block, ((self.seed, block, self.size, paddles) for block in range(blocks)), workers)
            batches = ((block.pixels, block.labels) for block in drawn)
            origin = f"generated, {self.difficulty}, seed {self.seed}"
            return Content(split_orders(self.images, permute=False), batches, origin)
        if in_mega_layout(source):
            return _mega_content(source, self.size)
        return _released_content(find_images(source, self.size, self.difficulty, self.copy), self.size)

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
            origin=json.loads((folder / NOTES).read_text())["origin"],
            facts={"image_size": self.size},
        )


def split_orders(count: int, permute: bool) -> Orders:
    """Positions of each split: 80, 10 and 10 %, permuted with seed 42 if asked for."""
    order = np.arange(count)
    if permute:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(42)).numpy()
    held_out = int(count * 0.1)  # validation, and test; training takes the rest, as S4 does
    first, second = count - 2 * held_out, count - held_out
    return {"train": order[:first], "val": order[first:second], "test": order[second:]}


def _mega_content(source: Path, size: int) -> Content:
    bounds = np.cumsum([0, *(count_mega_rows(source, split) for split in MEGA_SPLITS)]).tolist()
    orders = {split: np.arange(bounds[i], bounds[i + 1]) for i, split in enumerate(MEGA_SPLITS)}
    rows = (row for split in MEGA_SPLITS for row in mega_rows(source, split, size))
    batches = ((image[None], [require_label(label, 2, f"{source / 'label'}")]) for image, label in rows)
    return Content(orders, batches, str(source))


def _released_content(folder: Path, size: int) -> Content:
    listed = list(read_metadata(folder))
    kept = [(path, label) for path, label in listed if not is_known_empty(path, folder, size)]
    batches = ((read_image(path, size)[None], [label]) for path, label in kept)
    origin = str(folder.resolve())
    if len(kept) < len(listed):
        left_out = f"without {KNOWN_EMPTY[1]}, which is an empty file in the release"
        logger.warning("%s: read %s", folder, left_out)
        origin = f"{origin}, {left_out}"
    return Content(split_orders(len(kept), permute=True), batches, origin)
