"""Synthetic tasks of recall: associative, with one query or many, and induction."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from ..base import one_of
from .base import UNASKED, Ids, Synthetic, require


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
