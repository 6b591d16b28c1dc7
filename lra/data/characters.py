"""Texts as token ids: Unicode characters with a vocabulary of their own, or bytes.

Texts are stored as UTF-8. The S4 convention counts characters in the training split, keeps those seen often enough and
gives them ids by descending count, after ``<pad>`` 0, ``<unk>`` 1 and ``<eos>`` 2; the original benchmark takes bytes,
id = byte + 1, and pads with 0.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sequences import Sequences

UNKNOWN, EOS, SPECIAL = 1, 2, 3


def count_characters(texts: Sequences, length: int) -> Counter[str]:
    """Number of occurrences of each character among the first ``length`` of each text.

    S4 counts texts that are already cut (``src/dataloaders/lra.py`` at e757cef).
    """
    counts: Counter[str] = Counter()
    for index in range(len(texts.offsets) - 1):
        counts.update(texts[index].tobytes().decode()[:length])
    return counts


def vocabulary(counts: Counter[str], least: int) -> str:
    """Characters seen at least ``least`` times, by descending count and then by code point."""
    return "".join(sorted((c for c, n in counts.items() if n >= least), key=lambda c: (-counts[c], c)))


@dataclass(frozen=True)
class Characters:
    """From UTF-8 to ids of characters, the end cut off so that ``<eos>`` fits.

    Attributes:
        known: the characters of the vocabulary, in the order of their ids.
        max_length: tokens at most, ``<eos>`` included.
    """

    known: str
    max_length: int
    pad_id: int = 0
    eos_id: int | None = EOS

    def __post_init__(self) -> None:
        points = np.array([ord(character) for character in self.known], np.int64)
        order = np.argsort(points)
        object.__setattr__(self, "_points", points[order])
        object.__setattr__(self, "_ids", SPECIAL + order)

    @property
    def vocab_size(self) -> int:
        """Ids in all."""
        return SPECIAL + len(self.known)

    def __call__(self, codes: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
        text = codes[: 4 * self.max_length].tobytes().decode(errors="ignore")[: self.max_length - 1]
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
        known: NDArray[np.int64] = self._points  # type: ignore[attr-defined]
        places = np.minimum(np.searchsorted(known, points), len(known) - 1)
        ids = np.where(known[places] == points, self._ids[places], UNKNOWN)  # type: ignore[attr-defined]
        return np.append(ids, EOS)


@dataclass(frozen=True)
class Bytes:
    """From UTF-8 to bytes plus 1, the end cut off.

    Attributes:
        max_length: tokens at most.
    """

    max_length: int
    pad_id: int = 0
    eos_id: int | None = None
    vocab_size: int = 257

    def __call__(self, codes: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.int64]:
        return codes[: self.max_length].astype(np.int64) + 1


def collect_texts(examples: Iterable[tuple[str, int]]) -> Sequences:
    """Texts and labels as stored sequences."""
    return Sequences.collect((text.encode(), label) for text, label in examples)
