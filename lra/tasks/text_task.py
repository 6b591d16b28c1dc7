"""Text: is a film review (IMDB) positive? Read character by character, untouched: no lower case, tags kept.

There is no validation set: like the published numbers, validation is the test set, and ``origin`` says so.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seqconv_kernels.errors import refusal

from ..characters import Bytes, Characters, collect_texts, count_characters, vocabulary
from ..layouts import find
from ..sequences import RightPadding, Sequences, TokenDataset
from ..store import Manifest
from ..tables import hub_rows, parquet_files, parquet_rows
from .base import Task, TaskData, one_of

HUB = "stanfordnlp/imdb"
COLUMNS = ("text", "label")
LEAST = 15
"""How often a character must be seen in training to have an id."""


@dataclass(frozen=True)
class Text(Task):
    """IMDB reviews.

    Attributes:
        convention: ``s4`` (characters, ``<eos>``) or ``jax`` (bytes).
        max_length: tokens at most.
        source: folder with ``aclImdb``, or with parquet files; ``datasets`` fetches it if empty.
    """

    summary: ClassVar[str] = "sentiment of film reviews by characters, 2 classes, up to 4,096 tokens"

    convention: str = "s4"
    max_length: int = 4096
    source: str = ""

    def __post_init__(self) -> None:
        one_of("text", "convention", self.convention, ("s4", "jax"))
        if self.max_length < 2:
            raise refusal("text", f"max_length={self.max_length}", "at least 2", "correct the option")

    @property
    def name(self) -> str:
        return "text"

    def parameters(self) -> dict[str, Any]:
        return {"source": str(Path(self.source).resolve()) if self.source else HUB}

    def total(self) -> int:
        return 2

    def _bytes(self) -> int:
        return 100_000_000

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        sizes = {}
        for split in ("train", "test"):
            texts = collect_texts(self._rows(split))
            texts.save(folder, split)
            sizes[split] = len(texts)
            if split == "train":
                known = vocabulary(count_characters(texts), LEAST)
                (folder / "vocabulary.json").write_text(json.dumps(known))
            advance(1)
        return sizes

    def _rows(self, split: str) -> Iterator[tuple[str, int]]:
        if not self.source:
            return hub_rows(self.name, HUB, split, COLUMNS)
        source = Path(self.source)
        if parquet_files(source, split):
            return parquet_rows(source, split, COLUMNS)
        return read_reviews(source, split)

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        known = json.loads((folder / "vocabulary.json").read_text())
        tokeniser = Characters(known, self.max_length) if self.convention == "s4" else Bytes(self.max_length)
        train, test = (Sequences.open(folder, split) for split in ("train", "test"))
        majority = np.bincount(train.labels, minlength=2).argmax()
        guesses = {"chance": 0.5, "majority class": float(np.mean(test.labels == majority))}
        rows = TokenDataset(test, tokeniser)
        return TaskData(
            splits={"train": TokenDataset(train, tokeniser), "val": rows, "test": rows},
            collate=RightPadding(tokeniser.pad_id, self.max_length if self.convention == "jax" else None),
            kind="sequence",
            classes=2,
            vocab_size=tokeniser.vocab_size,
            pad_id=tokeniser.pad_id,
            eos_id=tokeniser.eos_id,
            max_length=self.max_length,
            baselines={"val": guesses, "test": guesses},
            fingerprint=manifest.fingerprint,
            origin=f"{manifest.parameters['source']}; validation is the test set",
        )


def read_reviews(source: Path, split: str) -> Iterator[tuple[str, int]]:
    """Reviews of ``aclImdb``: one file each, in folders ``pos`` and ``neg``, negative ones first, by file name.

    Raises:
        ValueError: no such folder.
    """
    for label, name in enumerate(("neg", "pos")):
        remedy = "give the folder that holds aclImdb, or one with train*.parquet and test*.parquet"
        folder = find("text", source, ("", "aclImdb"), f"{split}/{name}", remedy)
        for path in sorted(folder.glob("*.txt")):
            yield path.read_bytes().decode(), label
