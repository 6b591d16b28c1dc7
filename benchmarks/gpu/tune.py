"""Other choices of blocks and chunks than those in the code: ``python -m benchmarks.gpu --tune`` times them.

A choice sets names of modules, or wraps what :class:`~seqconv_kernels._linear_attention.triton_blocks.Sizes` answers,
for as long as it is tried. What is best goes into the code by hand.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple
from unittest.mock import patch

from ..case import DIRECTIONS
from .speed import calls, measure
from .timed import BF16, Timed, timed
from .workers import Item, Row

Change = AbstractContextManager[Any]


class Choice(NamedTuple):
    """One alternative for one shape.

    Attributes:
        timed: the shape.
        words: what is changed; nothing for what is in the code.
        change: makes the change, as long as its context is open.
    """

    timed: Timed
    words: str
    change: Callable[[], Change]


def choices(small: bool, device: str) -> Iterator[Choice]:
    """All alternatives, each shape's own choice first."""
    seen = set()
    for shape in timed(small, device):
        kind = (shape.op, shape.case.partition("decay")[2] or shape.case)  # the first, largest, of each decay
        if kind not in seen and (shape.dtype == BF16 or shape.op == "linear_scan"):
            for words, change in _alternatives(shape).items():
                yield Choice(shape, words, change)
        seen.add(kind)


def item(choice: Choice, *, measured: bool) -> Item:
    """A row with the times of both directions and of the kernels; or nothing, and all that it needs is compiled."""
    name: Row = choice.timed.name | {"choice": choice.words}

    def rows() -> Iterator[Row]:
        case = choice.timed.make(1 if measured else choice.timed.smaller)
        own = replace(case, contenders={"seqconv": case.contenders["seqconv"]})
        with choice.change():
            if not measured:
                for direction in DIRECTIONS:
                    for _, call in calls(own, direction):
                        call()
                return
            found = [measure(own, direction, None) for direction in DIRECTIONS]
        notes = [note for row in found for note in row["notes"].values()]
        if notes:
            yield name | {"note": notes[0]}
        else:
            yield name | {"ms": [row["ms"]["seqconv"] for row in found], "kernels": found[1]["kernels"]}

    return Item(name, rows)


def _alternatives(shape: Timed) -> dict[str, Callable[[], Change]]:
    """By name; the first is what the code has."""
    found = {"as it is": nullcontext, **_OF_OPS.get(shape.op, dict)()}
    if shape.op in ("gated_linear_attention", "delta_rule"):
        found |= _linear_attention("vector" in shape.case)
    return found if len(found) > 1 else {}


def _names(module: str, **values: int) -> Callable[[], Change]:
    """Names of a module of the kernels, set to values."""
    return lambda: patch.multiple(import_module(f"seqconv_kernels.{module}"), **values)


def _points(table: str, points: int) -> Callable[[], Change]:
    """One of the tables of points by dtype in the plan of the long convolution."""
    return lambda: patch.dict(getattr(import_module("seqconv_kernels.fft_conv.plan"), table), {BF16: points})


def _scan() -> dict[str, Callable[[], Change]]:
    module = "selective_scan.triton"
    return {
        **{f"chunks for {n} programs": _names(module, PROGRAMS=n) for n in (512, 1024, 4096, 8192)},
        **{f"{n} states": _names(module, FORWARD_STATES=n) for n in (256, 1024)},
        **{f"{n} states backwards": _names(module, BACKWARD_STATES=n) for n in (128, 512)},
        **{f"{n} steps at a time": _names(module, PREFETCH=n) for n in (2, 8)},
        "a checkpoint every 8 states": _names(module, CHECKPOINT=8),
    }


def _convolution() -> dict[str, Callable[[], Change]]:
    passes = "fft_conv.triton_passes"
    return {
        **{f"tiles of {n}": _points("TILES", n) for n in (4096, 16384)},
        **{f"one program up to {n}": _points("LARGEST", n) for n in (4096, 16384)},
        **{f"inner transforms up to {n}": _points("LARGEST_INNER", n) for n in (2048, 4096)},
        **{f"{n} programs": _names(passes, PROGRAMS=n) for n in (264, 4096)},
        **{f"{n} lanes": _names(passes, LANES=n) for n in (4, 8)},
        "no prefetching": _names(passes, PREFETCH_POINTS=0),
        "sums in memory": _names(passes, REGISTER_POINTS=0),
    }


def _short_convolution() -> dict[str, Callable[[], Change]]:
    tiles = ((16, 64), (64, 64), (16, 128), (32, 128), (64, 128), (16, 256))
    return {f"{t} steps, {c} channels": _names("causal_conv1d.triton", BLOCK_T=t, BLOCK_C=c) for t, c in tiles}


def _linear_scan() -> dict[str, Callable[[], Change]]:
    blocks = {f"{n} channels": _names("linear_scan.triton", BLOCK=n) for n in (64, 256)}
    return blocks | {f"chunks of {n} at least": _names("linear_scan.triton", MIN_CHUNK=n) for n in (128, 256)}


_OF_OPS = {
    "selective_scan": _scan, "fft_conv": _convolution, "causal_conv1d": _short_convolution, "linear_scan": _linear_scan,
}  # fmt: skip


def _linear_attention(vector: bool) -> dict[str, Callable[[], Change]]:
    keys = (16, 64) if vector else (32, 128)
    passing, backward = partial(_sizes, "state_passing"), partial(_sizes, "intra_chunk_backward")
    return {
        **{f"chunks of {n}": _names("_linear_attention.triton_blocks", CHUNK=n) for n in (32, 128)},
        **{f"state passing: {n} values": passing(BV=n) for n in (16, 32, 64, 128)},
        **{f"state passing: {n} warps": passing(num_warps=n) for n in (4, 8)},
        **{f"state passing: {n} stages": passing(num_stages=n) for n in (1, 3)},
        **{f"within chunks: {n} keys": _sizes("intra_chunk", BK=n) for n in keys},
        **{f"within chunks: {n} warps": _sizes("intra_chunk", num_warps=n) for n in (4, 8)},
        "within chunks: any registers": _sizes("intra_chunk", maxnreg=None),
        **{f"gradients: {k} keys, {v} values": backward(BK=k, BV=v) for k in (32, 64) for v in (32, 64)},
        "gradients: 4 warps": backward(num_warps=4, maxnreg=None),
        "gradients: any registers": backward(maxnreg=None),
    }


def _sizes(kernel: str, **wanted: int | None) -> Callable[[], Change]:
    """What :class:`Sizes` answers for a kernel, changed."""

    def change() -> Change:
        sizes = import_module("seqconv_kernels._linear_attention.triton_blocks").Sizes
        answer = getattr(sizes, kernel)

        def changed(self: Any, *states: int) -> Any:
            blocks = answer(self, *states)
            cut = {n: wanted[n] for n in ("BK", "BV") if wanted.get(n)}
            options = blocks.options | {n: v for n, v in wanted.items() if n not in ("BK", "BV")}
            return blocks._replace(**cut, options={n: v for n, v in options.items() if v is not None})

        return patch.object(sizes, kernel, changed)

    return change
