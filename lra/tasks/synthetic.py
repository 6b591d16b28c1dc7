"""Synthetic companions, drawn row by row at any length; here associative recall and induction.

Row ``i`` of a split depends on the options, the seed, the split and ``i`` alone, so that nothing need be stored and
any number of processes sees the same rows. A label stands at the token after which it is asked; -100 asks nothing.
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

from seqconv_kernels.errors import refusal

from ..store import Manifest
from .base import Kind, Row, Task, TaskData, one_of

Ids = NDArray[np.int64]
Numbers = NDArray[Any]
SPLITS = ("train", "val", "test")
UNASKED = -100
KEPT = 128 * 2**20
"""Bytes of rows that a split keeps."""
SAMPLED = 256
"""Rows of each split that are written down, as a fingerprint, and that baselines are measured on."""


class SyntheticRows(Dataset[Row]):
    """The rows of a split, drawn when they are asked for first; up to :data:`KEPT` bytes are kept for later epochs."""

    def __init__(self, task: "Online", split: str, size: int) -> None:
        self.task, self.split, self.size = task, split, size
        self._kept: dict[int, Row] = {}
        self._room = KEPT

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self.size:
            raise IndexError(index)
        if index in self._kept:
            return self._kept[index]
        stream = SeedSequence([self.task.seed, SPLITS.index(self.split), index])
        inputs, labels = self.task.draw(Generator(Philox(stream)), self.split == "train")
        row = {self.task.reads: inputs, "labels": labels}
        self._room -= inputs.nbytes + labels.nbytes
        if self._room >= 0:
            self._kept[index] = row
        return row


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
            raise refusal(self.name, got, "a seed of at least 0, sizes of at least 1", "correct the options")
        self._check()

    def _check(self) -> None:
        """Refuse options that no row can be drawn for."""

    @abstractmethod
    def draw(self, stream: Generator, training: bool) -> tuple[Numbers, Numbers]:
        """Token ids (or a signal) and labels of one row."""

    @abstractmethod
    def _facts(self, labels: Mapping[str, Numbers]) -> dict[str, Any]:
        """What the model must know, and what guessers reach on the labels of some rows of each split."""

    def rows(self, split: str) -> SyntheticRows:
        """A split."""
        return SyntheticRows(self, split, {"train": self.train, "val": self.val, "test": self.test}[split])

    def parameters(self) -> dict[str, Any]:
        return asdict(self)

    def total(self) -> int:
        return len(SPLITS)

    def _bytes(self) -> int:
        return 48 * SAMPLED * len(self.rows("test")[0][self.reads])

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        for split in SPLITS:
            rows = self.rows(split)
            sample = stack([rows[index] for index in range(min(SAMPLED, len(rows)))])
            for name, values in sample.items():
                np.save(folder / f"{split}.{name}.npy", values.numpy(), allow_pickle=False)
            advance(1)
        return {split: len(self.rows(split)) for split in SPLITS}

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        labels = {split: np.load(folder / f"{split}.labels.npy", allow_pickle=False) for split in SPLITS}
        fresh = self.rows("test")[0]
        if fresh["labels"].shape != labels["test"][0].shape or not np.allclose(fresh["labels"], labels["test"][0]):
            remedy = f"rebuild it with 'python -m lra prepare {self.name} --force' and the same options"
            raise refusal(f"open {self.name}", "rows of another version of the generator", "the same rows", remedy)
        return TaskData(
            splits={split: self.rows(split) for split in SPLITS},
            collate=stack,
            max_length=len(fresh[self.reads]),
            fingerprint=manifest.fingerprint,
            origin=f"generated online, seed {self.seed}",
            **self._facts(labels),
        )


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
    """Refuse options unless ``holds``."""
    if not holds:
        raise refusal(task.name, f"{task.options()}", wanted, "correct the options")


@dataclass(frozen=True)
class Recall(Synthetic):
    """Associative recall as Hyena poses it (Poli et al., 2023).

    Ids: keys, then as many values, a dot that no row uses, and ``=>`` last. Every row has a fresh map from keys to
    values; ``length // 2`` pairs with keys drawn with replacement, then ``=>`` and a key that occurred. Trained on
    every next token, evaluated on the value at the end.

    Attributes:
        length: tokens of the pairs; a row has two more.
        vocab: number of token ids.
    """

    summary: ClassVar[str] = "associative recall, one query (Hyena)"

    length: int = 40
    vocab: int = 20

    @property
    def name(self) -> str:
        return "recall"

    @property
    def tokens(self) -> int:
        return self.vocab

    def _check(self) -> None:
        require(self, self.length >= 2 and self.vocab >= 4 and self.vocab % 2 == 0, "length >= 2, an even vocab >= 4")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        half = self.vocab // 2 - 1
        value_of = stream.integers(half, 2 * half, half)
        keys = stream.integers(0, half, self.length // 2)
        query = stream.choice(keys)
        pairs = np.stack([keys, value_of[keys]], 1).ravel()
        tokens = np.concatenate([pairs, [self.vocab - 1, query, value_of[query]]])
        labels = tokens[1:].copy()
        if not training:
            labels[:-1] = UNASKED
        return tokens[:-1], labels


@dataclass(frozen=True)
class MultiQueryRecall(Synthetic):
    """Multi-query associative recall (Arora et al., 2023).

    Ids: 0 is filler, keys lie below ``vocab // 2``, values from there on; both are distinct within a row. Pairs come
    first; then every key is asked once, at gaps drawn without replacement with weight ``power * i ** (power - 1)``.

    Attributes:
        length: tokens of a row, even and at least four times ``pairs``.
        pairs: key-value pairs of a row.
        vocab: number of token ids.
        filler: ``random`` tokens or ``zero`` where nothing is asked.
        power: how much likelier close queries are.
    """

    summary: ClassVar[str] = "associative recall, many queries (zoology)"

    length: int = 64
    pairs: int = 4
    vocab: int = 8192
    filler: str = "random"
    power: float = 0.01

    @property
    def name(self) -> str:
        return "mqar"

    @property
    def tokens(self) -> int:
        return self.vocab

    def _check(self) -> None:
        one_of(self.name, "filler", self.filler, ("random", "zero"))
        fits = self.length % 2 == 0 and self.length >= 4 * self.pairs >= 4 and self.pairs < self.vocab // 2
        require(self, fits and self.power > 0, "an even length >= 4 pairs, pairs in [1, vocab/2), power > 0")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        half, start = self.vocab // 2, 2 * self.pairs
        keys = stream.choice(half - 1, self.pairs, replace=False) + 1
        values = stream.choice(self.vocab - half, self.pairs, replace=False) + half
        slots = np.arange(1, (self.length - start) // 2 + 1)
        weight = slots ** (self.power - 1)
        places = start + 2 * stream.choice(len(slots), self.pairs, replace=False, p=weight / weight.sum())
        tokens = np.zeros(self.length, np.int64)
        if self.filler == "random":
            tokens = stream.integers(0, self.vocab, self.length)
        tokens[:start] = np.stack([keys, values], 1).ravel()
        tokens[places] = keys
        labels = np.full(self.length, UNASKED)
        labels[places] = values
        return tokens, labels


@dataclass(frozen=True)
class Induction(Synthetic):
    """Induction heads (Olsson et al., 2022): what followed the trigger before must follow it again.

    Ids: ordinary tokens, the trigger last. A row is random tokens with the trigger once at a random place, and ends
    with the trigger and all but the last of the copied tokens.

    Attributes:
        length: tokens before the final trigger.
        vocab: number of token ids.
        copied: tokens to repeat.
    """

    summary: ClassVar[str] = "induction heads"

    length: int = 30
    vocab: int = 20
    copied: int = 1

    @property
    def name(self) -> str:
        return "induction"

    @property
    def tokens(self) -> int:
        return self.vocab

    def _check(self) -> None:
        fits = self.copied >= 1 and self.length > self.copied and self.vocab >= 3
        require(self, fits, "copied >= 1, length > copied, vocab >= 3")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        trigger = self.vocab - 1
        tokens = stream.integers(0, trigger, self.length)
        place = stream.integers(0, self.length - self.copied)
        tokens[place] = trigger
        answer = tokens[place + 1 : place + 1 + self.copied]
        labels = np.concatenate([np.full(self.length, UNASKED), answer])
        return np.concatenate([tokens, [trigger], answer[:-1]]), labels
