"""Drawing ListOps expressions, in the order of draws of the benchmark's own generator.

At depth d (root 1) below the greatest depth draw r from U(0, 1); r > 0.25, or the greatest depth, gives a digit.
Otherwise a number of arguments from 2 to ``max_args`` is drawn, then the arguments at depth d + 1, then the operator.
Length counts digits, operators and closing brackets; an expression is kept when its length lies strictly inside the
window and it was not seen before. With Python's ``random.Random(s)`` the expressions equal, one by one, those that
the original functions give after ``random.seed(s)``.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from statistics import median

from seqconv_kernels._core.errors import argument_error

from ...data.parallel import in_order
from .expressions import CLASSES, END

LEAF_PROBABILITY_BOUND = 0.25
VALUES: tuple[Callable[[list[int]], int], ...] = (min, max, lambda v: int(median(v)), lambda v: sum(v) % 10)
"""MIN, MAX, MED, SM, written apart from the evaluator that checks the labels."""
BLOCK = 250
"""Examples drawn from one stream; part of what a seed means."""


@dataclass(frozen=True)
class Grammar:
    """Shape of the expressions.

    Attributes:
        max_depth: depth at which only digits are drawn, the root being 1.
        max_args: greatest number of arguments.
        shorter_than, longer_than: both exclusive, in tokens.
    """

    max_depth: int = 10
    max_args: int = 10
    longer_than: int = 500
    shorter_than: int = 2000

    def __post_init__(self) -> None:
        if self.max_depth < 2 or self.max_args < 2 or self.shorter_than - self.longer_than < 2:
            remedy = "take Grammar() or SMALL as a start"
            raise argument_error(
                "listops grammar", str(self), "depth and arguments of at least 2, an open window", remedy
            )


FULL = Grammar()
SMALL = Grammar(max_depth=5, max_args=5, longer_than=16, shorter_than=96)

Example = tuple[bytes, int]
"""Codes of an expression, one byte each, and its value."""


def draw_expression(stream: random.Random, grammar: Grammar) -> Example:
    """One unconditional draw."""
    codes = bytearray()
    value = _draw(stream, grammar, 1, codes)
    return bytes(codes), value


def _draw(stream: random.Random, grammar: Grammar, depth: int, codes: bytearray) -> int:
    if depth >= grammar.max_depth or stream.random() > LEAF_PROBABILITY_BOUND:
        digit = stream.choice(range(CLASSES))
        codes.append(digit)
        return digit
    arguments = stream.randint(2, grammar.max_args)
    place = len(codes)
    codes.append(0)
    values = [_draw(stream, grammar, depth + 1, codes) for _ in range(arguments)]
    operator = stream.choice(range(len(VALUES)))
    codes[place] = CLASSES + operator
    codes.append(END)
    return VALUES[operator](values)


def draw_examples(stream: random.Random, grammar: Grammar) -> Iterator[Example]:
    """The draws whose length lies inside the window, without end; duplicates are not removed."""
    while True:
        codes, value = draw_expression(stream, grammar)
        if grammar.longer_than < len(codes) < grammar.shorter_than:
            yield codes, value


def draw_block(seed: int, block: int, grammar: Grammar) -> list[Example]:
    """The examples of one block, which depend on nothing but the arguments."""
    examples = draw_examples(random.Random(f"listops {seed} {block}"), grammar)
    return [next(examples) for _ in range(BLOCK)]


def generate(
    wanted: int, grammar: Grammar, seed: int, *, workers: int = 1, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Example]:
    """Different examples, in the order of their blocks, whatever the number of processes.

    Args:
        wanted: how many.
        grammar: their shape.
        seed: any integer.
        workers: processes; 1 draws in this one.
        advance: called with the number of examples of each block.

    Raises:
        ValueError: the grammar does not have that many different expressions within reach.
    """
    seen: set[bytes] = set()
    stale = 0
    tasks = ((seed, block, grammar) for block in count())
    for block in in_order(draw_block, tasks, workers if wanted > BLOCK else 1):
        before = len(seen)
        advance(min(len(block), wanted - before))
        for codes, value in block:
            digest = blake2b(codes, digest_size=16).digest()
            if digest not in seen and len(seen) < wanted:
                seen.add(digest)
                yield codes, value
        stale = stale + 1 if len(seen) == before else 0
        if len(seen) == wanted:
            return
        if stale == 20:
            got = f"{wanted} examples of {grammar}"
            raise argument_error(
                "listops", got, f"about {len(seen)}, all there are", "ask for fewer, or widen the grammar"
            )
