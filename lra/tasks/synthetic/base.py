"""What the synthetic companions share: rows drawn one by one at any length, labels exact.

Row ``i`` of a split depends on the options, the seed, the split and ``i`` alone, so that any number of processes sees
the same rows. Splits up to :data:`WRITTEN` bytes are drawn once, when the task is prepared; of larger ones no row is
stored: their rows are so long that drawing them costs little compared with a training step.
A label belongs to the token after which it is asked; -100 asks nothing.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from seqconv_kernels._core.errors import argument_error

from ...data.store import Manifest, allocate
from ..base import Kind, Row, Task, TaskData

Ids = NDArray[np.int64]
Numbers = NDArray[Any]
SPLITS = ("train", "val", "test")
UNASKED = -100
WRITTEN = 64 * 2**20
"""Bytes of the largest split that is written down whole."""
SAMPLED = 256
"""Rows of a larger split that are written down, as a fingerprint, and of any that baselines are measured on."""


class DrawnRows(Dataset[Row]):
    """The rows of a split, each drawn whenever it is asked for."""

    def __init__(self, task: "Online", split: str, size: int) -> None:
        self.task, self.split, self.size = task, split, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self.size:
            raise IndexError(index)
        stream = SeedSequence([self.task.seed, SPLITS.index(self.split), index])
        inputs, labels = self.task.draw(Generator(Philox(stream)), self.split == "train")
        return {self.task.reads: inputs, "labels": labels}


class WrittenRows(Dataset[Row]):
    """The rows of a split, from arrays of them all."""

    def __init__(self, columns: dict[str, Numbers]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> Row:
        return {name: column[index] for name, column in self.columns.items()}


def stack(rows: list[Row]) -> dict[str, Tensor]:
    """Collator of rows of one length."""
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


@dataclass(frozen=True)
class Online(Task):
    """Base of tasks whose rows are drawn when they are asked for.

    Attributes:
        seed: of all rows.
        train, val, test: rows of each split.
        reads: name of the model's input.
    """

    reads: ClassVar[str]

    seed: int = 0
    train: int = 20_000
    val: int = 1_000
    test: int = 1_000

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test) < 1 or self.seed < 0:
            got = f"seed={self.seed}, sizes {self.train}, {self.val}, {self.test}"
            raise argument_error(self.name, got, "a seed of at least 0, sizes of at least 1", "correct the options")
        self._check()

    def _check(self) -> None:
        """Raise for options that no row can be drawn for."""

    @abstractmethod
    def draw(self, stream: Generator, training: bool) -> tuple[Numbers, Numbers]:
        """Token ids (or a signal) and labels of one row."""

    @abstractmethod
    def _facts(self, labels: Mapping[str, Numbers]) -> dict[str, Any]:
        """What the model must know, and what baselines reach on the labels of some rows of each split."""

    def rows(self, split: str) -> DrawnRows:
        """A split."""
        return DrawnRows(self, split, {"train": self.train, "val": self.val, "test": self.test}[split])

    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def total(self) -> int:
        return sum(self._written(split) for split in SPLITS)

    def _written(self, split: str) -> int:
        """Rows of a split that are written down."""
        rows = self.rows(split)
        return len(rows) if len(rows) * self._row_bytes() <= WRITTEN else min(SAMPLED, len(rows))

    def _row_bytes(self) -> int:
        return sum(column.nbytes for column in self.rows("test")[0].values())

    def _bytes(self) -> int:
        return self.total() * self._row_bytes() + 2**16  # headers and manifest

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        for split in SPLITS:
            rows, count = self.rows(split), self._written(split)
            columns = {
                name: allocate(folder / f"{split}.{name}.npy", value.dtype.type, (count, *value.shape))
                for name, value in rows[0].items()
            }
            for index in range(count):
                for name, value in rows[index].items():
                    columns[name][index] = value
                advance(1)
        return {split: len(self.rows(split)) for split in SPLITS}

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        columns = {split: self._columns(folder, split) for split in SPLITS}
        labels = {split: columns[split]["labels"][:SAMPLED] for split in SPLITS}
        fresh = self.rows("test")[0]
        if fresh["labels"].shape != labels["test"][0].shape or not np.allclose(fresh["labels"], labels["test"][0]):
            remedy = f"rebuild it with 'python -m lra prepare {self.name} --force' and the same options"
            raise argument_error(
                f"open {self.name}", "rows of another version of the generator", "the same rows", remedy
            )
        rows = {split: WrittenRows(columns[split]) for split in SPLITS}
        whole = {split: len(rows[split]) == len(self.rows(split)) for split in SPLITS}
        return TaskData(
            splits={split: rows[split] if whole[split] else self.rows(split) for split in SPLITS},
            collate=stack,
            max_length=len(fresh[self.reads]),
            fingerprint=manifest.fingerprint,
            origin=f"generated, seed {self.seed}",
            **self._facts(labels),
        )

    def _columns(self, folder: Path, split: str) -> dict[str, Numbers]:
        """What :meth:`_write` wrote of a split, by name."""
        names = (self.reads, "labels")
        return {name: np.asarray(np.load(folder / f"{split}.{name}.npy", "r", allow_pickle=False)) for name in names}


@dataclass(frozen=True)
class Synthetic(Online):
    """Base of the synthetic tasks over tokens.

    Attributes:
        kind: what a label belongs to.
    """

    reads: ClassVar[str] = "input_ids"
    kind: ClassVar[Kind] = "token"

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Number of token ids; labels are token ids too."""

    def _facts(self, labels: Mapping[str, Numbers]) -> dict[str, Any]:
        guesses = {split: _baselines(labels["val"], labels[split]) for split in ("val", "test")}
        known = {"classes": self.tokens, "vocab_size": self.tokens, "pad_id": 0, "eos_id": None}
        return {"kind": self.kind, "baselines": guesses, **known}


def _baselines(known: Numbers, labels: Numbers) -> dict[str, float]:
    asked, seen = labels[labels != UNASKED], known[known != UNASKED]
    values, counts = np.unique(seen, return_counts=True)
    return {"chance": 1 / len(values), "majority class": float(np.mean(asked == values[counts.argmax()]))}


def require(task: Task, holds: bool, wanted: str) -> None:
    """Raise unless ``holds``."""
    if not holds:
        raise argument_error(task.name, f"{task.options()}", wanted, "correct the options")
