"""Which cases of a test over all mixers are run by ``make test``: the others carry the mark ``slow``.

What is around a mixer (models, caches, sharding, exports) sees its kind of state and the call that it takes, not its
equations: a mixer of each kind is enough. Tests of the mixers themselves run over all of them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

REPRESENTATIVES = {
    "attention": "keys and values that grow",
    "gated_deltanet": "a matrix per head, a short convolution",
    "gla": "a matrix per head",
    "hyena": "inputs that grow, several convolutions",
    "lightconv": "a window of inputs",
    "log_linear_mamba2": "one matrix per power of two",
    "lstm": "a cell that is computed token by token",
    "mamba": "a vector per channel, a short convolution",
    "mega": "a residual connection inside, a norm, chunks of attention",
    "periodic_conv": "a counter of tokens",
    "rwkv7": "values that layers share",
    "s4d": "a discretised recurrence without an axis of rows",
    "sgconv": "inputs that grow",
    "transformer_xl": "a memory of earlier segments",
    "vim": "no state: both directions",
}
"""Mixers and the kind that each represents."""


def _slow(marked: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if marked else []


def representatives(names: Iterable[str]) -> list[Any]:
    """Parameters: the representatives among the names are fast."""
    return [pytest.param(name, marks=_slow(name not in REPRESENTATIVES)) for name in names]


def defaults(cases: Iterable[tuple[str, dict[str, Any]]], label: Callable[[Any], str]) -> list[Any]:
    """Parameters: of (name, options), those without options are fast."""
    return [pytest.param(case, marks=_slow(bool(case[1])), id=label(case)) for case in cases]


def default_representatives(cases: Iterable[tuple[str, dict[str, Any]]], label: Callable[[Any], str]) -> list[Any]:
    """Parameters: of (name, options), the representatives without options are fast."""
    return [pytest.param(c, marks=_slow(bool(c[1]) or c[0] not in REPRESENTATIVES), id=label(c)) for c in cases]
