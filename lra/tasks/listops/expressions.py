"""ListOps: expressions such as ``[MAX 2 [MED 4 1 7] 9]`` and their values, 0 to 9.

This file knows the language: symbols, the two ways of writing an expression, its value. ``evaluate`` reads text and
shares nothing with the generator, which computes the labels while it draws. Sources: Nangia and Bowman, "ListOps",
2018; Tay et al., "Long Range Arena", 2021.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from seqconv_kernels._core.errors import argument_error

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
SYMBOLS = (*map(str, range(10)), *OPERATORS, "]")
"""The 15 symbols; a code is a position here."""
CODES = {symbol: code for code, symbol in enumerate(SYMBOLS)}
END = CODES["]"]
_SYMBOL = re.compile(r"\[[^\s()\[\]]*|[()\]]|[^\s()\[\]]+")
CLASSES = 10


def apply(operator: str, values: Sequence[int]) -> int:
    """The value of one operator on at least one digit: a median is truncated, a sum is taken modulo 10."""
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ranked, middle = sorted(values), len(values) // 2
    return ranked[middle] if len(values) % 2 else (ranked[middle - 1] + ranked[middle]) // 2


def symbols_of(source: str) -> list[str]:
    """The symbols of an expression without its parentheses; ``X`` is read as ``]``.

    >>> symbols_of("( ( ( [MAX 5 ) 8 ) ] )")
    ['[MAX', '5', '8', ']']
    """
    return [symbol for symbol in _split(source) if symbol not in "()"]


def _split(source: str) -> list[str]:
    """Symbols and parentheses; no space is needed around a bracket."""
    return ["]" if symbol == "X" else symbol for symbol in _SYMBOL.findall(source)]


def bracketed(codes: Iterable[int]) -> str:
    """Write codes in the fully bracketed, left-nested form of the benchmark's files.

    >>> bracketed([11, 5, 8, 14])
    '( ( ( [MAX 5 ) 8 ) ] )'
    """
    stack: list[list[str]] = [[]]
    for code in codes:
        if code == END:
            operator, *arguments = stack.pop()
            closing = "".join(f" {argument} )" for argument in arguments)
            stack[-1].append(f"{'( ' * (len(arguments) + 1)}{operator}{closing} ] )")
        elif code >= CLASSES:
            stack.append([SYMBOLS[code]])
        else:
            stack[-1].append(SYMBOLS[code])
    return stack[0][0]


def evaluate(source: str) -> int:
    """The value of an expression, from its text.

    Args:
        source: fully bracketed as in the benchmark's files, or without any parentheses; ``]`` may be written ``X``.
            Spaces, tabs and line ends may be anywhere between symbols, and are needed only between words.

    Returns:
        0 to 9.

    Raises:
        ValueError: not an expression; the message names the symbol and its position, counted from 0.
    """
    return _Reader(_split(source)).read()


class _Frame(NamedTuple):
    """An operator whose list is open: the parentheses before it, and its arguments so far."""

    operator: str
    opened: int
    arguments: list[int]


class _Reader:
    """Reads an expression once from left to right, with a stack of open lists."""

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = symbols
        self.bracketed = "(" in symbols or ")" in symbols
        self.position = 0

    def read(self) -> int:
        """The value of the whole."""
        frames: list[_Frame] = []
        while True:
            opened = self._opening()
            symbol = self._next("a digit or an operator")
            if symbol in OPERATORS:
                frames.append(_Frame(symbol, opened, []))
                continue
            if symbol == "]" and frames and not opened and frames[-1].arguments:
                value = self._close(frames.pop())
            elif len(symbol) == 1 and symbol in SYMBOLS[:CLASSES] and not opened:
                value = int(symbol)
            else:
                raise self._error(symbol, "a digit, an operator, or ] after an argument")
            if not frames:
                return self._end(value)
            if self.bracketed:
                self._expect(")", f"a parenthesis after an argument of {frames[-1].operator}")
            frames[-1].arguments.append(value)

    def _opening(self) -> int:
        start = self.position
        while self.position < len(self.symbols) and self.symbols[self.position] == "(":
            self.position += 1
        return self.position - start

    def _next(self, wanted: str) -> str:
        if self.position >= len(self.symbols):
            raise self._error("the end of the text", wanted)
        self.position += 1
        return self.symbols[self.position - 1]

    def _expect(self, symbol: str, wanted: str) -> None:
        got = self._next(wanted)
        if got != symbol:
            raise self._error(got, wanted)

    def _close(self, frame: _Frame) -> int:
        if self.bracketed:
            self._expect(")", f"a parenthesis after the ] of {frame.operator}")
            if frame.opened != len(frame.arguments) + 1:
                got = f"{frame.opened} parentheses before a {frame.operator} of {len(frame.arguments)} arguments"
                raise self._error(got, f"{len(frame.arguments) + 1}")
        return apply(frame.operator, frame.arguments)

    def _end(self, value: int) -> int:
        if self.position < len(self.symbols):
            self.position += 1
            raise self._error(self.symbols[self.position - 1], "nothing after a complete expression")
        return value

    def _error(self, got: str, wanted: str) -> ValueError:
        place = f"{got} at symbol {self.position - (self.position > 0 and got != 'the end of the text')}"
        return argument_error("listops.evaluate", place, wanted, "write it like ( ( ( [MAX 5 ) 8 ) ] )")


def cut_value(codes: Iterable[int], depth: int) -> int:
    """A guess from the operators down to nesting level ``depth`` (root = 1): how far shallow reading carries.

    A deeper list counts as 1 inside MIN and 8 inside MAX, is left out of MED (4 if nothing is left) and makes SM
    unknown, which counts as a deeper list one level up and as 0 at the root.
    """
    stack: list[tuple[str, list[int | None]]] = []
    value: int | None = None
    for code in codes:
        if CLASSES <= code < END:
            stack.append((SYMBOLS[code], []))
            continue
        if code == END:
            level = len(stack)
            operator, arguments = stack.pop()
            value = _guess(operator, arguments) if level <= depth else None
        else:
            value = code
        if stack:
            stack[-1][1].append(value)
    return value or 0


def _guess(operator: str, arguments: Sequence[int | None]) -> int | None:
    if operator == "[SM" and None in arguments:
        return None
    instead = {"[MIN": 1, "[MAX": 8}.get(operator)
    known = [instead if value is None else value for value in arguments]
    values = [value for value in known if value is not None]
    return apply(operator, values) if values else 4


def best_guess(train: Iterable[tuple[int, int]]) -> dict[int, int]:
    """For each root symbol the commonest label among ``(root code, label)`` pairs."""
    counts: dict[int, Counter[int]] = {}
    for root, label in train:
        counts.setdefault(root, Counter())[label] += 1
    return {root: max(sorted(labels), key=labels.__getitem__) for root, labels in counts.items()}
