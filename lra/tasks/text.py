"""Text: is a film review (IMDB) positive? Read character by character, untouched: no lower case, tags kept.

There is no validation set: like the published numbers, validation is the test set, and ``origin`` says so. MEGA's
binarised files hold token ids and splits of their own; they are read with ``convention=mega`` and with no other.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seqconv_kernels._core.errors import argument_error

from ..data.binarised import check_convention, open_tokeniser, write_binarised
from ..data.characters import collect_texts, count_characters, vocabulary
from ..data.fairseq import find_binarised
from ..data.files import FRESH, read_text, require_inside, require_label
from ..data.layouts import IMDB, find
from ..data.sequences import RightPadding, Sequences, TokenDataset
from ..data.store import Manifest
from ..data.tables import hub_rows, parquet_files, parquet_rows
from .base import Task, TaskData, one_of

HUB = "stanfordnlp/imdb"
COLUMNS = ("text", "label")
LEAST = 15
"""How often a character must be seen in training to have an id."""

LENGTHS = {"s4": 4096, "jax": 4096, "mega": 4002}
"""Greatest length by convention."""


@dataclass(frozen=True)
class Text(Task):
    """IMDB reviews.

    Attributes:
        convention: ``s4`` (characters, ``<eos>``), ``jax`` (bytes), or ``mega`` (the ids in MEGA's files).
        max_length: tokens at most; 0 for the convention's own length.
        source: folder with ``aclImdb``, with parquet files, or with MEGA's; ``datasets`` fetches it if empty.
    """

    summary: ClassVar[str] = "sentiment of film reviews by characters, 2 classes, up to 4,096 tokens"

    convention: str = "s4"
    max_length: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        one_of("text", "convention", self.convention, ("s4", "jax", "mega"))
        if self.max_length == 1 or self.max_length < 0:
            raise argument_error("text", f"max_length={self.max_length}", "0 or at least 2", "correct the option")

    @property
    def name(self) -> str:
        return "text"

    @property
    def longest(self) -> int:
        """Tokens of a text at most."""
        return self.max_length or LENGTHS[self.convention]

    def parameters(self) -> dict[str, Any]:
        counted = {"counted": self.longest} if self.convention == "s4" else {}  # S4 cuts the texts, then counts
        return {"source": str(Path(self.source).resolve()) if self.source else HUB, **counted}

    def total(self) -> int:
        return 2

    def _bytes(self) -> int:
        return 100_000_000

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        binarised = find_binarised(Path(self.source), self.name) if self.source else None
        check_convention(self.name, self.convention, binarised is not None)
        if binarised:
            return write_binarised(binarised, folder, {"": "src-bin"}, advance)
        sizes = {}
        for split in ("train", "test"):
            texts = collect_texts(_checked(self._rows(split), split))
            texts.save(folder, split)
            sizes[split] = len(texts)
            if split == "train":
                known = vocabulary(count_characters(texts, self.longest - 1), LEAST)
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
        tokeniser = open_tokeniser(self.name, folder, self.convention, self.longest)
        own = self.convention == "mega"
        stored = {split: Sequences.open(folder, split) for split in manifest.sizes}
        splits = {split: TokenDataset(texts, tokeniser) for split, texts in stored.items()}
        splits.setdefault("val", splits["test"])
        majority = np.bincount(stored["train"].labels, minlength=2).argmax()
        guesses = {
            split: {"chance": 0.5, "majority class": float(np.mean(splits[split].sequences.labels == majority))}
            for split in ("val", "test")
        }
        return TaskData(
            splits={split: splits[split] for split in ("train", "val", "test")},
            collate=RightPadding(tokeniser.pad_id, self.longest if self.convention == "jax" else None),
            kind="sequence",
            classes=2,
            vocab_size=tokeniser.vocab_size,
            pad_id=tokeniser.pad_id,
            eos_id=tokeniser.eos_id,
            max_length=self.longest,
            baselines=guesses,
            fingerprint=manifest.fingerprint,
            origin=manifest.parameters["source"] + ("" if own else "; validation is the test set"),
        )


def _checked(rows: Iterable[tuple[Any, Any]], split: str) -> Iterator[tuple[str, int]]:
    for number, (text, label) in enumerate(rows):
        if not isinstance(text, str):
            raise argument_error(f"read {split} row {number}", type(text).__name__, "a text", FRESH)
        yield text, require_label(label, 2, f"{split} row {number}")


def read_reviews(source: Path, split: str) -> Iterator[tuple[str, int]]:
    """Reviews of ``aclImdb``: one file each, in folders ``pos`` and ``neg``, negative ones first, by file name.

    Raises:
        ValueError: no such folder, a file that is a link out of it, or that is not UTF-8.
    """
    for label, name in enumerate(("neg", "pos")):
        remedy = f"give the folder of aclImdb, or of train*.parquet and test*.parquet; get them from {IMDB}"
        folder = find("text", source, ("", "aclImdb", "aclImdb/aclImdb"), f"{split}/{name}", remedy)
        for path in sorted(folder.glob("*.txt")):
            yield read_text(require_inside(path, folder)), label
