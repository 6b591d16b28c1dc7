"""Packed sequences inside an op: each segment becomes a row of a batch, padded on the right, and back."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from .checks import check_cu_seqlens

I = TypeVar("I", bound=tuple[Any, ...])  # noqa: E741
R = TypeVar("R", Tensor, tuple[Tensor, Tensor])


def count_rows(operation: str, cu_seqlens: Tensor | None, x: Tensor) -> int:
    """Rows of the states: one per segment, or the batch without bounds.

    Raises:
        ValueError: bounds that do not increase to the length, a batch other than one.
    """
    if cu_seqlens is None:
        return x.shape[0]
    check_cu_seqlens(operation, cu_seqlens, x)
    return len(cu_seqlens) - 1


def segment_count(cu_seqlens: Tensor | None, x: Tensor) -> int | torch.SymInt:
    """The same for checked bounds (a symbol while the compiler keeps shapes open)."""
    return x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def padded(
    *tokens: str, **fills: float
) -> Callable[[Callable[[I], tuple[Tensor, Tensor]]], Callable[[I], tuple[Tensor, Tensor]]]:
    """Let an implementation that takes a batch take packed sequences (a field ``cu_seqlens`` of its inputs) too.

    Each segment becomes a row that ends in padding, which must change no state.

    Args:
        tokens: names of the inputs with a time axis, padded with zeros.
        fills: names of further ones, with what pads them.
    """
    values = dict.fromkeys(tokens, 0.0) | fills

    def decorate(run: Callable[[I], tuple[Tensor, Tensor]]) -> Callable[[I], tuple[Tensor, Tensor]]:
        @wraps(run)
        def with_segments(inputs: I) -> tuple[Tensor, Tensor]:
            packed: Any = inputs
            if packed.cu_seqlens is None:
                return run(inputs)
            given = {name: t for name in values if (t := getattr(packed, name)) is not None}
            segments = Segments(packed.cu_seqlens, next(iter(given.values())).device)
            rows = {name: segments.unpack(t, values[name]) for name, t in given.items()}
            y, final_state = run(packed._replace(cu_seqlens=None, **rows))
            return segments.pack(y), final_state

        return with_segments

    return decorate


def in_reverse(inputs: I, *tokens: str) -> I:
    """The inputs of an op with its time reversed, and without its option ``reverse``: each sequence is turned around.

    Args:
        inputs: of an op with fields ``cu_seqlens``, ``initial_state`` and ``reverse``.
        tokens: names of the inputs with a time axis.
    """
    given: Any = inputs
    turned = {name: t.flip(1) for name in tokens if (t := getattr(given, name)) is not None}
    if given.cu_seqlens is not None:  # all of the row is reversed: the last sequence comes first
        turned["cu_seqlens"] = given.cu_seqlens[-1] - given.cu_seqlens.flip(0)
        turned["initial_state"] = None if given.initial_state is None else given.initial_state.flip(0)
    reversed_inputs: I = given._replace(reverse=False, **turned)
    return reversed_inputs


def reversible(*tokens: str) -> Callable[[Callable[[I], R]], Callable[[I], R]]:
    """Let an implementation that runs forwards in time take the option ``reverse``; see :func:`in_reverse`.

    It returns the output, or the output and the final states.
    """

    def decorate(run: Callable[[I], R]) -> Callable[[I], R]:
        @wraps(run)
        def either_way(inputs: I) -> R:
            given: Any = inputs
            if not given.reverse:
                return run(inputs)
            results: Any = run(in_reverse(inputs, *tokens))
            if isinstance(results, Tensor):
                return results.flip(1)  # type: ignore[return-value]
            y, final_state = results
            return y.flip(1), final_state if given.cu_seqlens is None else final_state.flip(0)  # type: ignore[return-value]

        return either_way

    return decorate


def sum_over_time(x: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """``(batch, length, ...)`` to ``(segments, ...)``: sums over each row, or over each packed sequence."""
    return (x if cu_seqlens is None else Segments(cu_seqlens, x.device).unpack(x)).sum(1)


def with_state_and_decay(
    y: Tensor, final_state: Tensor | None, total_decay: Tensor | None
) -> Tensor | tuple[Tensor, ...]:
    """What a scan returns: the output, and after it what was asked for."""
    others = tuple(t for t in (final_state, total_decay) if t is not None)
    return (y, *others) if others else y


class Segments:
    """Where the segments of a batch of one lie.

    An op unpacks its inputs with fill values that change no state (a zero key, a decay of one), runs as on any
    batch, and packs its output: initial and final states then have one row per segment.

    Args:
        cu_seqlens: checked bounds of the segments.
    """

    def __init__(self, cu_seqlens: Tensor, device: torch.device) -> None:
        starts, lengths = cu_seqlens[:-1].to(device), cu_seqlens.diff().to(device)
        offsets = torch.arange(int(lengths.max()), device=device)
        self.real = offsets < lengths[:, None]
        self.index = (starts[:, None] + offsets).clamp(max=int(cu_seqlens[-1]) - 1)

    def unpack(self, packed: Tensor, fill: float = 0.0) -> Tensor:
        """``(1, total, ...)`` to ``(segments, longest, ...)``."""
        real = self.real.reshape(*self.real.shape, *[1] * (packed.dim() - 2))
        return packed[0][self.index].masked_fill(~real, fill)

    def pack(self, padded: Tensor) -> Tensor:
        """``(segments, longest, ...)`` to ``(1, total, ...)``."""
        return padded[self.real][None]
