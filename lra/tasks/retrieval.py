"""Retrieval: does one paper of the ACL Anthology Network cite the other? Two texts per row, by characters.

Lines are ``label, id1, id2, text1, text2`` between tabs, without header and without quoting: quotes are characters
like others. The label is written as a float. MEGA's binarised files hold token ids; they are read with
``convention=mega`` and with no other. The convention also says how the model compares both texts.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seqconv_kernels._core.errors import argument_error

from ..data.binarised import check_convention, open_tokeniser, write_binarised
from ..data.characters import collect_texts, count_characters, vocabulary
from ..data.fairseq import find_binarised
from ..data.files import text_lines
from ..data.layouts import RELEASE, find, unpacked
from ..data.sequences import Encode, RightPadding, Sequences
from ..data.store import Manifest
from ..data.tables import hub_rows
from .base import Row, Task, TaskData, one_of

FILES = {"train": "new_aan_pairs.train.tsv", "val": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}
LAYOUTS = ("", *unpacked("tsv_data"))
HUB, COLUMNS = "hub:", ("label", "text1", "text2")
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}
USUAL_BYTES = 4_000_000_000
"""Disk space of the prepared texts of all 180,000 pairs."""
LENGTHS = {"s4": 4000, "jax": 4000, "mega": 4002}
"""Greatest length of a text by convention."""


class PairDataset(Dataset[Row]):
    """Rows ``{"input_ids": (ids, ids), "labels": label}``."""

    def __init__(self, first: Sequences, second: Sequences, tokeniser: Encode) -> None:
        self.first, self.second, self.tokeniser = first, second, tokeniser

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> Row:
        pair = (self.tokeniser(self.first[index]), self.tokeniser(self.second[index]))
        return {"input_ids": pair, "labels": int(self.first.labels[index])}


@dataclass(frozen=True)
class PairPadding:
    """Collator: both texts of all rows padded to one length and stacked, ``(batch, 2, length)``."""

    pad: RightPadding

    def __call__(self, rows: list[Row]) -> dict[str, Tensor]:
        ids, mask = self.pad.pad([ids for row in rows for ids in row["input_ids"]])
        labels = torch.tensor([row["labels"] for row in rows])
        return {"input_ids": ids.unflatten(0, (-1, 2)), "attention_mask": mask.unflatten(0, (-1, 2)), "labels": labels}


@dataclass(frozen=True)
class Retrieval(Task):
    """AAN pairs.

    Attributes:
        convention: ``s4`` (characters, ``<eos>``), ``jax`` (bytes), or ``mega`` (the ids in MEGA's files).
        max_length: tokens of each text at most; 0 for the convention's own length.
        source: folder with the three files, with the unpacked archive, or with MEGA's files; ``hub:OWNER/NAME`` fetches
            a public copy with columns ``label``, ``text1``, ``text2`` through ``datasets``.
    """

    summary: ClassVar[str] = "does one paper cite the other? 2 classes, two texts of up to 4,000 tokens"

    convention: str = "s4"
    max_length: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        one_of("retrieval", "convention", self.convention, ("s4", "jax", "mega"))
        if self.max_length == 1 or self.max_length < 0:
            raise argument_error("retrieval", f"max_length={self.max_length}", "0 or at least 2", "correct the option")

    @property
    def name(self) -> str:
        return "retrieval"

    @property
    def longest(self) -> int:
        """Tokens of a text at most."""
        return self.max_length or LENGTHS[self.convention]

    def parameters(self) -> dict[str, Any]:
        hub = self.source.startswith(HUB)
        counted = {"counted": self.longest} if self.convention == "s4" else {}  # S4 cuts the texts, then counts
        return {"source": self.source if hub or not self.source else str(Path(self.source).resolve()), **counted}

    def total(self) -> int:
        return len(FILES)

    def _bytes(self) -> int:
        if self.source.startswith(HUB):
            return USUAL_BYTES
        if self._binarised():
            return 3 * sum(path.stat().st_size for path in Path(self.source).rglob("*.bin"))
        return 3 * sum(find_pairs(Path(self.source), split).stat().st_size for split in FILES)

    def _rows(self, split: str) -> Iterator[tuple[str, str, int]]:
        if not self.source.startswith(HUB):
            yield from read_pairs(find_pairs(Path(self.source), split))
            return
        name = HUB_SPLITS[split]
        for number, (label, first, second) in enumerate(hub_rows(self.name, self.source[len(HUB) :], name, COLUMNS)):
            if label not in (0, 1) or not isinstance(first, str) or not isinstance(second, str):
                got = f"row {number} of {name}: label {label!r}"
                raise argument_error(f"read {self.source}", got, "label 0 or 1 and two texts", "take another copy")
            yield first, second, int(label)

    def _binarised(self) -> Path | None:
        if not self.source:
            remedy = f"the texts may not be passed on: give their folder with source=FOLDER; get {RELEASE}"
            raise argument_error("prepare retrieval", "no source", "a folder, or hub:OWNER/NAME", remedy)
        hub = self.source.startswith(HUB)
        folder = None if hub else find_binarised(Path(self.source), self.name)
        check_convention(self.name, self.convention, folder is not None)
        return folder

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        binarised = self._binarised()
        if binarised:
            return write_binarised(binarised, folder, {".first": "src-bin", ".second": "src1-bin"}, advance)
        sizes = {}
        for split in FILES:
            rows = list(self._rows(split))
            first = collect_texts((text, label) for text, _, label in rows)
            second = collect_texts((text, label) for _, text, label in rows)
            first.save(folder, f"{split}.first")
            second.save(folder, f"{split}.second")
            sizes[split] = len(rows)
            if split == "train":
                counts = count_characters(first, self.longest - 1) + count_characters(second, self.longest - 1)
                (folder / "vocabulary.json").write_text(json.dumps(vocabulary(counts, 1)))
            advance(1)
        return sizes

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        tokeniser = open_tokeniser(self.name, folder, self.convention, self.longest)
        pairs = {s: [Sequences.open(folder, f"{s}.{side}") for side in ("first", "second")] for s in FILES}
        majority = np.bincount(pairs["train"][0].labels, minlength=2).argmax()
        return TaskData(
            splits={split: PairDataset(first, second, tokeniser) for split, (first, second) in pairs.items()},
            collate=PairPadding(RightPadding(tokeniser.pad_id, self.longest if self.convention == "jax" else None)),
            kind="pair",
            classes=2,
            vocab_size=tokeniser.vocab_size,
            pad_id=tokeniser.pad_id,
            eos_id=tokeniser.eos_id,
            max_length=self.longest,
            baselines={
                split: {"chance": 0.5, "majority class": float(np.mean(pairs[split][0].labels == majority))}
                for split in ("val", "test")
            },
            fingerprint=manifest.fingerprint,
            origin=manifest.parameters["source"],
            facts={"comparison": self.convention},
        )


def find_pairs(source: Path, split: str) -> Path:
    """The file of a split, in ``source`` itself, in ``tsv_data``, or in the archive unpacked once or twice nested.

    Raises:
        ValueError: not there.
    """
    remedy = f"the texts may not be passed on: give their folder with source=FOLDER; get {RELEASE}"
    return find("retrieval", source, LAYOUTS, FILES[split], remedy)


def read_pairs(path: Path) -> Iterator[tuple[str, str, int]]:
    """Both texts and the label of every line.

    Raises:
        ValueError: a line without five columns, or a label that is neither 0 nor 1; the message names the line.
    """
    for number, line in text_lines(path):
        columns = line.split("\t")
        if len(columns) != 5 or columns[0] not in ("0", "1", "0.0", "1.0"):
            got = f"line {number} of {len(columns)} columns, starting {line[:20]!r}"
            wanted = "label 0.0 or 1.0, two ids and two texts between tabs"
            raise argument_error(f"read {path}", got, wanted, "take a fresh copy of the file")
        yield columns[3], columns[4], int(float(columns[0]))
