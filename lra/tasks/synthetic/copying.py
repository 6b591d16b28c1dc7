"""Synthetic tasks of plain memory: copying, selective copying, delay."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from .base import UNASKED, Ids, Synthetic, require


@dataclass(frozen=True)
class Copying(Synthetic):
    """Copying (Arjovsky et al., 2016, as in S4's experiments).

    Ids: 0 blank, data from 1, the marker last. A row is ``memory`` data tokens, ``length`` blanks and ``memory``
    markers; at the markers the data are asked in order.

    Attributes:
        length: blanks.
        memory: data tokens.
        vocab: number of token ids.
    """

    summary: ClassVar[str] = "copying: data first, then blanks, then repeat"

    length: int = 100
    memory: int = 10
    vocab: int = 10

    @property
    def name(self) -> str:
        return "copying"

    @property
    def tokens(self) -> int:
        return self.vocab

    def _check(self) -> None:
        require(self, self.length >= 0 and self.memory >= 1 and self.vocab >= 3, "length >= 0, memory >= 1, vocab >= 3")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        return _copy_row(stream, self.length, np.arange(self.memory), self.vocab)


@dataclass(frozen=True)
class SelectiveCopying(Synthetic):
    """Selective copying (Gu and Dao, 2023): as :class:`Copying`, the data at random places among the blanks.

    Attributes:
        length: data and blanks, before the markers.
        memory: data tokens.
        vocab: number of token ids.
    """

    summary: ClassVar[str] = "selective copying: data among blanks, then repeat"

    length: int = 4096
    memory: int = 16
    vocab: int = 16

    @property
    def name(self) -> str:
        return "selective-copying"

    @property
    def tokens(self) -> int:
        return self.vocab

    def _check(self) -> None:
        require(self, self.length >= self.memory >= 1 and self.vocab >= 3, "length >= memory >= 1, vocab >= 3")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        places = np.sort(stream.choice(self.length, self.memory, replace=False))
        return _copy_row(stream, self.length - self.memory, places, self.vocab)


def _copy_row(stream: Generator, blanks: int, places: Ids, vocab: int) -> tuple[Ids, Ids]:
    """Data at ``places`` among the blanks, then a marker for each, where they are asked in order."""
    memory = len(places)
    data = stream.integers(1, vocab - 1, memory)
    tokens = np.zeros(blanks + 2 * memory, np.int64)
    tokens[places] = data
    tokens[-memory:] = vocab - 1
    labels = np.full(len(tokens), UNASKED)
    labels[-memory:] = data
    return tokens, labels


@dataclass(frozen=True)
class Delay(Synthetic):
    """Delay: every token is asked again ``lag`` tokens later.

    Attributes:
        length: tokens of a row, more than ``lag``.
        lag: of the answer.
        vocab: number of token ids.
    """

    summary: ClassVar[str] = "delay: repeat the token of some steps before"

    length: int = 128
    lag: int = 32
    vocab: int = 10

    @property
    def name(self) -> str:
        return "delay"

    @property
    def tokens(self) -> int:
        return self.vocab

    def _check(self) -> None:
        require(self, 0 <= self.lag < self.length and self.vocab >= 2, "0 <= lag < length, vocab >= 2")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        tokens = stream.integers(0, self.vocab, self.length)
        labels = np.concatenate([np.full(self.lag, UNASKED), tokens[: self.length - self.lag]])
        return tokens, labels
