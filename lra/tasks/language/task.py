"""EnWik8 by bytes and WikiText-103 by words: bits per byte, and perplexity, of the whole test split.

EnWik8: 90 million bytes train, 5 million validate and 5 million test (``data/enwik8/prep_enwik8.py`` of
salesforce/awd-lstm-lm at 1e24cc5); a token is a byte. WikiText-103: words between spaces, ``<eos>`` after every line,
ids by falling frequency in the training text, ``<eos>`` first (``src/dataloaders/lm.py`` and
``utils/vocabulary.py`` of state-spaces/s4 at e757cef, after Transformer-XL). Training windows follow one another; those
of validation and test slide by ``stride``, and every token but the first is predicted once.
"""

import json
import zipfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqconv_kernels._core.errors import argument_error

from ...data.files import FRESH, text_lines
from ...data.layouts import find
from ...data.store import Manifest
from ...data.tables import hub_rows, parquet_files, parquet_rows
from ..base import Row, Task, TaskData
from .windows import Windows

SPLITS = ("train", "val", "test")
HELD_OUT = 5_000_000
"""Bytes of EnWik8 that validate, and that test."""
NAMES = {"train": ("train", "train"), "val": ("valid", "validation"), "test": ("test", "test")}
"""Of each split in local files, and on the hub."""
HUB, CONFIG = "Salesforce/wikitext", "wikitext-103-v1"
ENWIK8 = "give the folder of enwik8 or enwik8.zip with source=FOLDER; get http://mattmahoney.net/dc/enwik8.zip"
WIKITEXT = (
    "give the folder of wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens, or of parquet files, with "
    f"source=FOLDER; get wikitext-103-v1.zip, or {CONFIG} of {HUB} on the hub"
)
EOS, UNKNOWN = "<eos>", "<unk>"
VOCABULARY = "vocabulary.json"


@dataclass(frozen=True)
class LanguageModelling(Task):
    """Running text.

    Attributes:
        corpus: ``enwik8`` or ``wikitext103``.
        length: tokens that a prediction may read; 0 for 1,024 bytes or 512 words.
        stride: tokens that a window of validation or test predicts; 0 for ``length``.
        source: folder of the text; WikiText-103 is fetched through ``datasets`` if empty.
    """

    summary: ClassVar[str] = "the next byte of EnWik8, or word of WikiText-103; bits per byte, perplexity"

    corpus: str = "enwik8"
    length: int = 0
    stride: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        if self.corpus not in ("enwik8", "wikitext103") or self.length < 0 or not 0 <= self.stride <= self.longest:
            got = f"corpus={self.corpus!r}, length={self.length}, stride={self.stride}"
            wanted = "enwik8 or wikitext103, a length, and a stride of at most the length"
            raise argument_error("language modelling", got, wanted, "correct the options")

    @property
    def name(self) -> str:
        return self.corpus

    @property
    def longest(self) -> int:
        """Tokens that a prediction may read."""
        return self.length or (1024 if self.corpus == "enwik8" else 512)

    def parameters(self) -> dict[str, Any]:
        nothing = f"{HUB}, {CONFIG}" if self.corpus == "wikitext103" else ""
        return {"source": str(Path(self.source).resolve()) if self.source else nothing}

    def total(self) -> int:
        return len(SPLITS)

    def _bytes(self) -> int:
        return 100_000_000 if self.corpus == "enwik8" else 420_000_000

    def _write(self, folder: Path, workers: int, advance: Callable[[int], None]) -> Mapping[str, int]:
        known: dict[str, int] = {EOS: 0}
        if self.corpus == "wikitext103":
            counts: Counter[str] = Counter()
            for _, line in self._lines("train"):
                counts.update(line.split())
            for word, _ in counts.most_common():
                known.setdefault(word, len(known))
            (folder / VOCABULARY).write_text(json.dumps(list(known)))
        sizes = {}
        for split in SPLITS:
            words = self.corpus == "wikitext103"
            tokens = encode(self._lines(split), known) if words else read_bytes(Path(self.source), split)
            if len(tokens) < 2:
                raise argument_error(f"prepare {self.name}", f"{len(tokens)} tokens of {split}", "a text", FRESH)
            np.save(folder / f"{split}.npy", tokens, allow_pickle=False)
            sizes[split] = len(tokens)
            advance(1)
        return sizes

    def _lines(self, split: str) -> Iterator[tuple[str, str]]:
        """Place and text of every line."""
        local, hub = NAMES[split]
        source = Path(self.source)
        if self.source and not parquet_files(source, hub):
            layouts = ("", "wikitext-103", "wikitext-103-v1")
            names = [f"wiki.{local}.tokens", f"{local}.txt"]
            there = [source / layout / name for layout in layouts for name in names]
            path = next((p for p in there if p.is_file()), None) or find(self.name, source, layouts, names[0], WIKITEXT)
            yield from ((f"{path}, line {number}", line) for number, line in text_lines(path))
            return
        columns = ("text",)
        rows = parquet_rows(source, hub, columns) if self.source else hub_rows(self.name, HUB, hub, columns, CONFIG)
        for number, (text,) in enumerate(rows):
            if not isinstance(text, str):
                raise argument_error(f"read {hub} row {number}", repr(text), "a text", FRESH)
            yield f"{hub} row {number}", text

    def _read(self, folder: Path, manifest: Manifest) -> TaskData:
        tokens = {split: np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False) for split in SPLITS}
        stride = self.stride or self.longest
        splits = {
            split: Windows(text, self.longest, self.longest if split == "train" else stride, split != "train")
            for split, text in tokens.items()
        }
        vocab = 256
        if self.corpus == "wikitext103":
            vocab = len(json.loads((folder / VOCABULARY).read_text()))
        most = int(np.bincount(tokens["train"][:1_000_000]).argmax())
        return TaskData(
            splits=splits,
            collate=stack,
            kind="language",
            classes=vocab,
            vocab_size=vocab,
            pad_id=None,
            eos_id=None,
            max_length=self.longest + 1,
            baselines={
                split: {"most frequent token": float(np.mean(tokens[split] == most))} for split in ("val", "test")
            },
            fingerprint=manifest.fingerprint,
            origin=manifest.parameters["source"],
            score="bits per byte" if self.corpus == "enwik8" else "perplexity",
        )


def stack(rows: list[Row]) -> dict[str, Tensor]:
    """A batch of windows, all of one length."""
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in ("input_ids", "labels")}


def read_bytes(source: Path, split: str) -> NDArray[np.uint8]:
    """A split of EnWik8, from the release or from what ``prep_enwik8.py`` made of it.

    Raises:
        ValueError: not there, damaged, or too short.
    """
    made = source / f"{NAMES[split][0]}.txt.raw"
    if made.is_file():
        return np.fromfile(made, np.uint8)
    try:
        if (source / "enwik8.zip").is_file():
            content = np.frombuffer(zipfile.ZipFile(source / "enwik8.zip").read("enwik8"), np.uint8)
        else:
            content = np.fromfile(find("enwik8", source, ("",), "enwik8", ENWIK8), np.uint8)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise argument_error(f"read {source}", f"no readable enwik8 ({error})", "enwik8", ENWIK8) from error
    if len(content) <= 2 * HELD_OUT:
        got = f"{len(content):,} bytes"
        raise argument_error(f"read {source}", got, f"more than the {2 * HELD_OUT:,} that are held out", ENWIK8)
    bounds = {"train": (0, len(content) - 2 * HELD_OUT), "test": (len(content) - HELD_OUT, len(content))}
    start, end = bounds.get(split, (len(content) - 2 * HELD_OUT, len(content) - HELD_OUT))
    return content[start:end]


def encode(lines: Iterator[tuple[str, str]], known: Mapping[str, int]) -> NDArray[np.int32]:
    """Ids of the words of every line, and of its end.

    Raises:
        ValueError: a word that the training text lacks, where it has no ``<unk>`` either.
    """
    ids = array("i")
    for place, line in lines:
        for word in line.split():
            if word not in known and UNKNOWN not in known:
                wanted, remedy = f"words of the training text, or {UNKNOWN}", "take all splits from one copy"
                raise argument_error(f"read {place}", f"the word {word!r}", wanted, remedy)
            ids.append(known[word] if word in known else known[UNKNOWN])
        ids.append(known[EOS])
    return np.frombuffer(ids, np.int32)
