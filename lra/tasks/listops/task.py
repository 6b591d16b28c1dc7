"""ListOps as a task: generated, or read from the benchmark's or MEGA's files; three conventions for token ids.

Conventions:

* ``s4``: ``<pad>`` 0, ``<unk>`` 1, ``<eos>`` 2, then the symbols by descending frequency in the training split
  (18 ids in all); cut to 2047 tokens, ``<eos>`` appended, padded to the longest of the batch.
* ``jax``: padding 0, the symbols sorted from 1, one id for unknown ones (17 in all); cut and padded to 2000, no
  ``<eos>``. The original numbers the symbols in the order of a Python set, which no seed fixes.
* ``mega``: ``<s>`` 0, ``<pad>`` 1, ``</s>`` 2, ``<unk>`` 3, then the symbols by descending frequency, filled up to a
  multiple of 8, and ``<CLS>`` (25 ids); ``</s>`` appended, then cut to 2002 tokens, padded to the longest of the batch.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seqconv_kernels._core.errors import argument_error

from ...data import fairseq
from ...data.fairseq import find_binarised
from ...data.files import text_lines
from ...data.layouts import RELEASE, find, unpacked
from ...data.sequences import RightPadding, Sequences, TokenDataset, Tokeniser
from ...data.store import Manifest
from ..base import Task, TaskData, one_of
from .expressions import CLASSES, CODES, SYMBOLS, best_guess, cut_value, evaluate, symbols_of
from .generator import FULL, SMALL, Example, Grammar, generate

SPLITS = ("train", "val", "test")
FILES = {split: f"basic_{split}.tsv" for split in SPLITS}
LAYOUTS = ("", *unpacked("listops-1000"), "listops")
SIZES = {"full": (96_000, 2_000, 2_000), "small": (20_000, 2_000, 2_000)}


@dataclass(frozen=True)
class ListOps(Task):
    """ListOps.

    Attributes:
        setting: ``full`` (depth 10, 10 arguments, 501 to 1999 tokens) or ``small`` (depth 5, 5 arguments, 17 to 95).
        train, val, test: sizes of the splits; 0 for the setting's own.
        seed: of the generator.
        convention: token ids, ``s4``, ``jax`` or ``mega``.
        source: folder of the benchmark's own files, or of MEGA's, instead of generating.
    """

    summary: ClassVar[str] = "nested list operations, 10 classes, up to 2,000 tokens (small: 95)"

    setting: str = "full"
    train: int = 0
    val: int = 0
    test: int = 0
    seed: int = 0
    convention: str = "s4"
    source: str = ""

    def __post_init__(self) -> None:
        one_of("listops", "setting", self.setting, tuple(SIZES))
        one_of("listops", "convention", self.convention, ("s4", "jax", "mega"))
        if min(self.train, self.val, self.test) < 0:
            got = f"sizes {self.train}, {self.val}, {self.test}"
            raise argument_error(self.name, got, "0 or more", "0 takes the setting's own size")

    @property
    def name(self) -> str:
        return "listops" if self.setting == "full" else "listops-small"

    @property
    def grammar(self) -> Grammar:
        """Shape of the expressions."""
        return FULL if self.setting == "full" else SMALL

    def sizes(self) -> dict[str, int]:
        """Examples asked of each split."""
        own = zip(SPLITS, (self.train, self.val, self.test), SIZES[self.setting], strict=True)
        return {split: given or usual for split, given, usual in own}

    def parameters(self) -> dict[str, Any]:
        if self.source:
            return {"source": str(Path(self.source).resolve())}
        return {"setting": self.setting, "seed": self.seed, "sizes": self.sizes()}

    def total(self) -> int:
        return sum(self.sizes().values())

    def _bytes(self) -> int:
        return self.total() * (self.grammar.shorter_than + 16)

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        if self.source:
            streams = {split: self._stream(split) for split in SPLITS}
        else:
            examples = generate(self.total(), self.grammar, self.seed, workers=workers, advance=advance)
            streams = {split: islice(examples, size) for split, size in self.sizes().items()}
        sizes = {}
        for split, stream in streams.items():
            sequences = Sequences.collect(stream)
            sequences.save(folder, split)
            sizes[split] = len(sequences)
            if split == "train":
                counts = np.bincount(sequences.codes, minlength=len(SYMBOLS)).tolist()
                (folder / "symbol_counts.json").write_text(json.dumps(dict(zip(SYMBOLS, counts, strict=True))))
        return sizes

    def _stream(self, split: str) -> Iterator[Example]:
        binarised = find_binarised(Path(self.source), "listops")
        return read_binarised(binarised, split) if binarised else read_tsv(find_tsv(Path(self.source), split))

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        counts = json.loads((folder / "symbol_counts.json").read_text())
        tokeniser = make_tokeniser(self.convention, counts)
        splits = {split: Sequences.open(folder, split) for split in SPLITS}
        origin = self.source or f"generated, {self.setting} setting, seed {self.seed}"
        return TaskData(
            splits={split: TokenDataset(sequences, tokeniser) for split, sequences in splits.items()},
            collate=RightPadding(tokeniser.pad_id, tokeniser.max_length if self.convention == "jax" else None),
            kind="sequence",
            classes=CLASSES,
            vocab_size=tokeniser.vocab_size,
            pad_id=tokeniser.pad_id,
            eos_id=tokeniser.eos_id,
            max_length=tokeniser.max_length,
            baselines={split: baselines(splits["train"], splits[split]) for split in ("val", "test")},
            fingerprint=manifest.fingerprint,
            origin=origin,
        )


def make_tokeniser(convention: str, counts: Mapping[str, int]) -> Tokeniser:
    """Token ids of the symbols.

    Args:
        convention: ``s4``, ``jax`` or ``mega``.
        counts: occurrences of each symbol in the training split.
    """
    if convention == "jax":
        order = sorted(SYMBOLS)
        return Tokeniser(tuple(1 + order.index(symbol) for symbol in SYMBOLS), len(SYMBOLS) + 2, 0, None, 2000)
    written = {symbol: "X" if symbol == "]" else symbol for symbol in SYMBOLS}
    order = sorted(SYMBOLS, key=lambda symbol: (-counts[symbol], written[symbol]))
    if convention == "mega":
        first = len(fairseq.SPECIAL)
        size = 8 * -(-(first + len(SYMBOLS)) // 8) + 1
        ids = tuple(first + order.index(symbol) for symbol in SYMBOLS)
        return Tokeniser(ids, size, fairseq.PAD, fairseq.EOS, 2002)
    return Tokeniser(tuple(3 + order.index(symbol) for symbol in SYMBOLS), len(SYMBOLS) + 3, 0, 2, 2048)


def baselines(train: Sequences, split: Sequences) -> dict[str, float]:
    """Accuracy of baselines: chance, the training majority, the best guess from the root, reading to depth k."""
    majority = np.bincount(train.labels, minlength=CLASSES).argmax()
    guess = best_guess(zip(train.codes[train.offsets[:-1]].tolist(), train.labels.tolist(), strict=True))
    guesses = np.array([guess.get(root, majority) for root in split.codes[split.offsets[:-1]].tolist()])
    found = {
        "chance": 1 / CLASSES,
        "majority class": float(np.mean(split.labels == majority)),
        "root operator": float(np.mean(guesses == split.labels)),
    }
    expressions = [split[index].tolist() for index in range(len(split))]
    for depth in (1, 2, 3):
        right = [cut_value(codes, depth) == label for codes, label in zip(expressions, split.labels, strict=True)]
        found[f"read to depth {depth}"] = float(np.mean(right))
    return found


def find_tsv(source: Path, split: str) -> Path:
    """The file of a split, in ``source`` itself, in ``listops-1000``, or in the archive unpacked once or twice nested.

    Raises:
        ValueError: not there.
    """
    remedy = f"give the folder that holds {FILES[split]} or lra_release; get {RELEASE}, or generate it without source="
    return find("listops", source, LAYOUTS, FILES[split], remedy)


def read_tsv(path: Path) -> Iterator[Example]:
    """Codes and label of every line; each label is compared with the value of its expression.

    Raises:
        ValueError: no header, a line that is cut off, an expression that is none, or a label that is not its value;
            the message names the line.
    """
    remedy = "take a fresh copy of the file"
    rows = csv.reader((line for _, line in text_lines(path)), delimiter="\t")
    header = next(rows, [])
    if header != ["Source", "Target"]:
        raise argument_error(f"read {path}", f"the first line {header}", "Source<TAB>Target", remedy)
    for number, row in enumerate(rows, 2):
        if len(row) != 2 or row[1].strip() not in SYMBOLS[:CLASSES]:
            got = f"line {number} of {len(row)} columns ending in {row[-1][-20:] if row else ''!r}"
            raise argument_error(f"read {path}", got, "an expression, a tab and a digit", remedy)
        value = _checked_value(path, number, row[0])
        if value != int(row[1]):
            raise argument_error(f"read {path}", f"line {number} with label {row[1]}", f"its value {value}", remedy)
        yield bytes(CODES[symbol] for symbol in symbols_of(row[0])), value


def read_binarised(folder: Path, split: str) -> Iterator[Example]:
    """Codes and label of every example of MEGA's files; each label is compared with the value of its expression.

    Raises:
        ValueError: missing or damaged files, a symbol that is none of ListOps, or a label that is not the value.
    """
    symbols, path = fairseq.read_dictionary(folder / "src-bin" / "dict.txt"), folder / "src-bin" / fairseq.SPLITS[split]
    for number, (ids, label) in enumerate(fairseq.read_examples(folder, split)):
        source = " ".join(symbols[id] for id in ids.tolist() if id != fairseq.EOS)
        value = _checked_value(path, number, source)
        if value != label:
            got = f"line {number} with label {label}"
            raise argument_error(f"read {path}", got, f"its value {value}", fairseq.REMEDY)
        yield bytes(CODES[symbol] for symbol in symbols_of(source)), value


def _checked_value(path: Path, number: int, source: str) -> int:
    try:
        return evaluate(source)
    except ValueError as error:
        raise argument_error(
            f"read {path}", f"line {number}: {error}", "an expression", "take a fresh copy of the file"
        ) from error
