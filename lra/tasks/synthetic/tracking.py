"""State tracking: what a row of operations amounts to so far, asked at every token."""

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from ..base import one_of
from .base import Ids, Synthetic, require

GROUPS = ("s3", "s4", "s5", "a4", "a5")
"""All, or the even, permutations of n elements."""


@dataclass(frozen=True)
class Parity(Synthetic):
    """The sum of all tokens so far, modulo ``modulus``.

    Attributes:
        length: tokens of a row.
        modulus: 2 for parity; token ids and labels lie below it.
    """

    summary: ClassVar[str] = "parity, or sums modulo a number: state tracking"

    length: int = 64
    modulus: int = 2

    @property
    def name(self) -> str:
        return "parity"

    @property
    def tokens(self) -> int:
        return self.modulus

    def _check(self) -> None:
        require(self, self.length >= 1 and self.modulus >= 2, "length >= 1, modulus >= 2")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        tokens = stream.integers(0, self.modulus, self.length)
        return tokens, np.cumsum(tokens) % self.modulus


@dataclass(frozen=True)
class Permutations(Synthetic):
    """The word problem of a permutation group (Merrill, Petty and Sabharwal, "The Illusion of State", 2024).

    Every token is a permutation; its label is the product of all so far, ``p_t = x_t ∘ p_{t-1}``. Ids number the
    permutations in lexicographic order, 0 is the identity. In ``s5`` and ``a5``, which are not solvable, the problem is
    complete for NC1, which transformers and diagonal state spaces of constant depth are believed not to reach.

    Attributes:
        length: tokens of a row.
        group: ``s3``, ``s4``, ``s5`` (all permutations of three, four, five things), ``a4`` or ``a5`` (the even ones).
    """

    summary: ClassVar[str] = "products of permutations (S5, A5): state tracking"

    length: int = 64
    group: str = "s5"

    @property
    def name(self) -> str:
        return "permutations"

    @property
    def tokens(self) -> int:
        return len(elements(self.group))

    def _check(self) -> None:
        one_of(self.name, "group", self.group, GROUPS)
        require(self, self.length >= 1, "length >= 1")

    def draw(self, stream: Generator, training: bool) -> tuple[Ids, Ids]:
        table = products(self.group)
        tokens = stream.integers(0, len(table), self.length)
        product, labels = 0, []
        for token in tokens.tolist():
            product = table[token][product]
            labels.append(product)
        return tokens, np.array(labels)


@cache
def elements(group: str) -> list[tuple[int, ...]]:
    """The permutations of a group, in lexicographic order."""
    everything = permutations(range(int(group[1])))
    return [p for p in everything if group[0] == "s" or _inversions(p) % 2 == 0]


@cache
def products(group: str) -> list[list[int]]:
    """Ids of ``a ∘ b``, by the ids of ``a`` and ``b``."""
    members = elements(group)
    number = {member: id for id, member in enumerate(members)}
    return [[number[tuple(a[image] for image in b)] for b in members] for a in members]


def _inversions(permutation: tuple[int, ...]) -> int:
    return sum(a > b for place, a in enumerate(permutation) for b in permutation[place + 1 :])
