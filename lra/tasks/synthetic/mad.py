"""The six MAD tasks, as MAD-Lab draws them.

The three recall tasks train on every next token and are evaluated on the values of keys seen before; the other tasks
ask the same in training and evaluation. Defaults are the base settings; the suite varies one option at a time:
``vocab``, ``length``, ``noise``, ``copied``, and ``train``, the number of training rows. MAD-Lab averages accuracy over
classes; here every label that is asked counts alike, which agrees where values are uniform, as they are.
Source: Poli et al., "Mechanistic Design and Scaling of Hybrid Architectures", 2024.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.random import Generator, default_rng

from ..base import Kind
from .base import UNASKED, Ids, Synthetic, require

MAP_SEED = 12345
"""Of the fixed map that memorization asks for."""


@dataclass(frozen=True)
class Mad(Synthetic):
    """Base of the six.

    Attributes:
        vocab: number of token ids.
    """

    vocab: int = 16
    train: int = 12_800
    val: int = 1_280
    test: int = 1_280

    @property
    def tokens(self) -> int:
        return self.vocab


@dataclass(frozen=True)
class ContextRecall(Mad):
    """In-context recall: key, value, key, value, with a map of the row's own; the last key was seen before.

    Ids: keys, the lower half, then values. A row has ``length - 1`` tokens: the answer to its last key is not fed.

    Attributes:
        length: tokens, the last value included; even.
    """

    summary: ClassVar[str] = "MAD: in-context recall"

    length: int = 128

    @property
    def name(self) -> str:
        return "mad-recall"

    def _check(self) -> None:
        require(self, self.length % 2 == 0 and self.length >= 4 and self.vocab >= 2, "an even length >= 4, vocab >= 2")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        return _recall_row(stream, self.length, self.vocab, 0, 0.0, training)


@dataclass(frozen=True)
class NoisyRecall(Mad):
    """Noisy in-context recall: as :class:`ContextRecall`, some pairs replaced by two noise tokens.

    Ids: keys, values, then noise. At least one pair is kept.

    Attributes:
        length: tokens, the last value included; even.
        vocab: number of token ids, noise included.
        noise_vocab: number of noise ids.
        noise: share of the pairs that are replaced.
    """

    summary: ClassVar[str] = "MAD: in-context recall among noise"

    length: int = 128
    vocab: int = 32
    noise_vocab: int = 16
    noise: float = 0.2

    @property
    def name(self) -> str:
        return "mad-noisy-recall"

    def _check(self) -> None:
        fits = self.length % 2 == 0 and self.length >= 4 and self.vocab - self.noise_vocab >= 2
        fits = fits and self.noise_vocab >= 1 and 0 <= self.noise < 1
        require(self, fits, "an even length >= 4, noise_vocab >= 1, vocab >= noise_vocab + 2, 0 <= noise < 1")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        return _recall_row(stream, self.length, self.vocab, self.noise_vocab, self.noise, training)


def _recall_row(
    stream: Generator, length: int, vocab: int, noise_vocab: int, noise: float, training: bool
) -> tuple[Ids, Ids]:
    symbols = vocab - noise_vocab
    half, count = symbols // 2, length // 2 - 1
    keys = stream.integers(0, half, count)
    value_of = stream.integers(half, symbols, half)
    replaced = stream.random(count) < noise
    replaced[stream.integers(count)] = False
    kept = np.flatnonzero(~replaced)
    shown, first = np.unique(keys[kept], return_index=True)
    probe = stream.choice(shown)
    pairs = np.stack([np.append(keys, probe), value_of[np.append(keys, probe)]], 1)
    asked = np.zeros((count + 1, 2), bool)
    asked[kept, 1] = asked[count, 1] = True
    asked[kept[first], 1] = False
    pairs[:count][replaced] = stream.integers(symbols, vocab, (int(replaced.sum()), 2)) if noise_vocab else 0
    return _shift(pairs.ravel(), asked.ravel(), training)


def _shift(tokens: Ids, asked: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], training: bool) -> tuple[Ids, Ids]:
    """All but the last token, and after each the next one as its label: in training always, else where asked."""
    labels = tokens[1:] if training else np.where(asked[1:], tokens[1:], UNASKED)
    return tokens[:-1], labels


@dataclass(frozen=True)
class FuzzyRecall(Mad):
    """Fuzzy in-context recall: keys and values are words of one to three tokens, no token twice in a word.

    Ids: keys, values, then the padding on the left. One pair, the probe, is placed at random and is asked at the end.
    Outside training every key has the greatest length. MAD-Lab leaves the probe out of a row whose context ends early;
    here its place is moved forward, so that every answer can be known.

    Attributes:
        length: tokens.
        key_size, value_size: greatest length of a key and of a value.
    """

    summary: ClassVar[str] = "MAD: in-context recall of words"

    length: int = 128
    key_size: int = 3
    value_size: int = 3

    @property
    def name(self) -> str:
        return "mad-fuzzy-recall"

    def _check(self) -> None:
        half, pair = (self.vocab - 1) // 2, self.key_size + self.value_size
        fits = 1 <= self.key_size <= half and 1 <= self.value_size <= self.vocab - 1 - half and self.length >= 3 * pair
        require(self, fits, "sizes from 1 to half the vocab, length >= 3 (key_size + value_size)")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        greatest = self.key_size + self.value_size
        most = self.length // 2 + 1
        shortest = 1 if training else self.key_size
        keys = self._words(stream, most, 0, (self.vocab - 1) // 2, shortest, self.key_size)
        values = self._words(stream, most, (self.vocab - 1) // 2, self.vocab - 1, 1, self.value_size)
        probe, answer = keys.pop(), values.pop()
        size = len(probe) + len(answer)
        place = min(int(stream.integers(self.length - 2 * size)), self.length - size - 2 * greatest)
        value_of, shown = {probe: answer}, set[tuple[int, ...]]()
        tokens: list[int] = []
        asked: list[bool] = []

        def say(key: tuple[int, ...], fresh: tuple[int, ...]) -> None:
            value = value_of.setdefault(key, fresh)
            tokens.extend(key + value)
            asked.extend([False] * len(key) + [key in shown] * len(value))
            shown.add(key)

        while len(tokens) < self.length - size - greatest:
            if probe not in shown and len(tokens) >= place:
                say(probe, answer)
            else:
                say(keys.pop(), values.pop())
        say(probe, answer)
        fill = self.length + 1 - len(tokens)
        row = np.array([self.vocab - 1] * fill + tokens)
        return _shift(row, np.array([False] * fill + asked), training)

    def _words(
        self, stream: Generator, count: int, low: int, high: int, shortest: int, longest: int
    ) -> list[tuple[int, ...]]:
        """Random words over the ids from ``low`` to ``high - 1``, all lengths equally likely."""
        order = stream.random((count, high - low)).argsort(1)[:, :longest] + low
        sizes = stream.integers(shortest, longest + 1, count)
        return [tuple(word[:size]) for word, size in zip(order.tolist(), sizes.tolist(), strict=True)]


@dataclass(frozen=True)
class MadSelectiveCopying(Mad):
    """Selective copying as MAD has it: blanks precede data tokens, so that the last one abuts the copy token.

    Ids: data, then the blank, then the copy token. After the copy token come ``copied`` blanks, where the data are
    asked in order.

    Attributes:
        length: tokens of a row.
        copied: data tokens.
    """

    summary: ClassVar[str] = "MAD: selective copying"

    length: int = 256
    copied: int = 16

    @property
    def name(self) -> str:
        return "mad-selective-copying"

    def _check(self) -> None:
        fits = self.copied >= 1 and self.vocab >= 3 and self.length > 2 * self.copied + 1
        require(self, fits, "copied >= 1, vocab >= 3, length > 2 copied + 1")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        blank, count = self.vocab - 2, self.copied
        data = stream.integers(0, blank, count)
        before = np.bincount(stream.integers(0, count, self.length - 2 * count - 1), minlength=count)
        tokens = np.full(self.length, blank)
        tokens[np.cumsum(before) + np.arange(count)] = data
        tokens[-count - 1] = self.vocab - 1
        return tokens, np.concatenate([np.full(self.length - count, UNASKED), data])


@dataclass(frozen=True)
class Compression(Mad):
    """Compression: random tokens and a compression token; all are asked, from what is known at the last one alone.

    Ids: data, the compression token last. The model is an auto-encoder, see
    :class:`lra.models.autoencoder.AutoEncoder`.

    Attributes:
        length: tokens of a row, the compression token included.
    """

    summary: ClassVar[str] = "MAD: compression into the last state"
    kind: ClassVar[Kind] = "compression"

    length: int = 32

    @property
    def name(self) -> str:
        return "mad-compression"

    def _check(self) -> None:
        require(self, self.length >= 2 and self.vocab >= 2, "length >= 2, vocab >= 2")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        tokens = np.append(stream.integers(0, self.vocab - 1, self.length - 1), self.vocab - 1)
        return tokens, tokens.copy()


@dataclass(frozen=True)
class Memorization(Mad):
    """Memorization: keys and insert tokens in turn; at an insert token the value of the key is asked, always the same.

    Ids: keys, values, the insert token last. The map is MAD-Lab's own: it is in no row and must be learnt.

    Attributes:
        length: tokens of a row, even.
    """

    summary: ClassVar[str] = "MAD: memorization of a fixed map"

    length: int = 32
    vocab: int = 256
    train: int = 256

    @property
    def name(self) -> str:
        return "mad-memorization"

    def _check(self) -> None:
        require(self, self.length % 2 == 0 and self.length >= 2 and self.vocab >= 3, "an even length >= 2, vocab >= 3")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        value_of = fixed_map(self.vocab)
        keys = stream.integers(0, len(value_of), self.length // 2)
        tokens = np.stack([keys, np.full_like(keys, self.vocab - 1)], 1)
        labels = np.stack([np.full_like(keys, UNASKED), value_of[keys]], 1)
        return tokens.ravel(), labels.ravel()


@cache
def fixed_map(vocab: int) -> Ids:
    """The value of each key, as MAD-Lab pairs them."""
    half, stream = (vocab - 1) // 2, default_rng(MAP_SEED)
    keys, values = [[id] for id in range(half)], [[id] for id in range(half, vocab - 1)]
    stream.shuffle(keys)
    stream.shuffle(values)
    value_of = np.zeros(half, np.int64)
    for (key,), (value,) in zip(keys, values, strict=False):
        value_of[key] = value
    return value_of
