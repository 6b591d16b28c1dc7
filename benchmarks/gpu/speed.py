"""How long the Triton kernels and their peers take: all in turn, medians, by device events.

``do_bench`` of Triton empties the cache of the device before every call. What takes long is called three times.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..case import DIRECTIONS, Call, Case, Run
from ..measure import Ceilings
from .timed import COMPILED, Timed
from .workers import Item, Row, failure

ROUNDS = 3
TUNES_ITSELF = ("fla", "mamba-ssm")
"""Contenders that try many choices of blocks at their first call."""
SLOW = 20.0
"""Milliseconds from which one round does."""


def prepare(timed: Timed) -> Item:
    """Compile all that timing will run, and say how far the contenders are apart."""

    def rows() -> Iterator[Row]:
        case = timed.make(timed.smaller)
        results: dict[str, dict[str, tuple[Tensor, ...]]] = {direction: {} for direction in DIRECTIONS}
        notes: dict[str, dict[str, str]] = {direction: {} for direction in DIRECTIONS}
        for own in (True, False):
            for direction in DIRECTIONS:
                for name, call in calls(case, direction):
                    if _compiles(name) and name.startswith("seqconv") is own:
                        _try(name, call, results[direction], notes[direction])
        for direction, found in results.items():
            reference = found.pop("seqconv", None)
            apart = {} if reference is None else {name: _apart(peer, reference) for name, peer in found.items()}
            yield timed.name | {"direction": direction, "apart": apart, "notes": notes[direction]}

    return Item(timed.name, rows)


def _compiles(name: str) -> bool:
    return name.startswith(("seqconv", *TUNES_ITSELF)) or name.endswith(COMPILED)


def _try(name: str, call: Call, results: dict[str, tuple[Tensor, ...]], notes: dict[str, str]) -> None:
    try:
        results[name] = call()
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) and name.startswith("seqconv"):
            raise  # others hold it for a while
        notes[name] = failure(error)["note"]


def speed(timed: Timed) -> Item:
    """One row per direction; a row without those that tune themselves comes first, should they take too long."""

    def rows() -> Iterator[Row]:
        case = timed.make(1)
        quick = {name: run for name, run in case.contenders.items() if name not in TUNES_ITSELF}
        for contenders in (quick, case.contenders) if len(quick) < len(case.contenders) else (quick,):
            for direction in DIRECTIONS:
                yield timed.name | measure(replace(case, contenders=contenders), direction, ceilings())

    return Item(timed.name, rows)


def measure(case: Case, direction: str, limits: Ceilings | None) -> Row:
    """Milliseconds of each contender, their spread, those of seqconv's kernels, and the floor."""
    samples: dict[str, list[float]] = {}
    notes: dict[str, str] = {}
    for _ in range(ROUNDS if torch.cuda.is_available() else 1):
        for name, call in calls(case, direction):
            if name in notes or (name in samples and samples[name][0] > SLOW):
                continue
            try:
                samples.setdefault(name, []).append(_median_ms(call))
            except Exception as error:  # a peer that needs more memory than there is leaves the row, not the report
                notes[name] = failure(error)["note"]
                samples.pop(name, None)
                torch.cuda.empty_cache()
    own = next((call for name, call in calls(case, direction) if name in samples), None)
    row: Row = {
        "direction": direction, "ms": {name: statistics.median(times) for name, times in samples.items()},
        "spread": {name: [min(times), max(times)] for name, times in samples.items()}, "notes": notes,
    }  # fmt: skip
    if own is None or "seqconv" not in samples:
        return row
    moved, operations = case.work(direction)
    row |= {"moved": moved, "operations": operations, "kernels": _kernels(own)}
    return row | ({"floor": limits.floor(moved, operations)} if limits else {})


def calls(case: Case, direction: str) -> Iterator[tuple[str, Call]]:
    """The contenders, each with its inputs while it is looked at."""
    arranged: dict[Any, Mapping[str, Any]] = {}
    for name, run in case.contenders.items():
        if direction == DIRECTIONS[1] and name in case.forward_only:
            continue
        layout = case.layouts.get(name)
        if layout not in arranged:
            arranged[layout] = {k: _laid(v, layout) for k, v in case.inputs.items()}
        yield name, _call(run, arranged[layout], direction)


def _laid(value: Any, layout: Callable[[Tensor], Tensor] | None) -> Any:
    return layout(value) if layout is not None and isinstance(value, Tensor) else value


def _call(run: Run, inputs: Mapping[str, Any], direction: str) -> Call:
    if direction == DIRECTIONS[0]:
        return lambda: _forward(run, inputs)
    leaves = {k: v.detach().requires_grad_() for k, v in inputs.items() if isinstance(v, Tensor)}
    given = {**inputs, **leaves}
    weight: list[Tensor] = []

    def call() -> tuple[Tensor, ...]:
        y = run(**given)
        if not weight:  # the same for all contenders, in the layout of what each returns
            drawn = torch.randn(y.shape, generator=torch.Generator(y.device).manual_seed(0), device=y.device)
            weight.append(torch.empty_like(y).copy_(drawn))
        return torch.autograd.grad(y, list(leaves.values()), weight)

    return call


def _forward(run: Run, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (run(**inputs),)


def _apart(peer: tuple[Tensor, ...], own: tuple[Tensor, ...]) -> float:
    """The largest distance of any result, as a part of its norm."""
    norms = [((a.float() - b.float()).norm(), b.float().norm()) for a, b in zip(peer, own, strict=True)]
    return max(float(difference / norm) if norm else float(difference) for difference, norm in norms)


@cache
def ceilings() -> Ceilings | None:
    """Copy bandwidth, and the rate of a large bfloat16 product, on random data; ``None`` without a GPU."""
    if not torch.cuda.is_available():
        return None
    source = torch.randn(1 << 30, device="cuda", dtype=torch.bfloat16)
    target, square = torch.empty_like(source), torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    runs: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "multiply": lambda: square @ square,
    }
    ms = {name: statistics.median(_median_ms(run) for _ in range(ROUNDS)) for name, run in runs.items()}
    return Ceilings(1e3 * 2 * 2 * source.numel() / ms["copy"], 1e3 * 2 * 8192**3 / ms["multiply"])


def measure_ceilings() -> Item:
    """Both as a row."""
    name = {"op": "ceilings", "case": "a copy, a product", "dtype": "bfloat16"}
    return Item(name, lambda: [{"ceilings": asdict(found)} for found in (ceilings(),) if found])


def _median_ms(run: Callable[[], object]) -> float:
    if not torch.cuda.is_available():
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    from triton.testing import do_bench

    run()
    if _event_ms(run) > SLOW:
        return statistics.median(_event_ms(run) for _ in range(3))
    return float(do_bench(run, warmup=10, rep=60, return_mode="median"))


def _event_ms(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _kernels(run: Call) -> dict[str, float]:
    """Milliseconds of each kernel of a call; none where the profiler does not work."""
    if not torch.cuda.is_available():
        return {}
    from torch.profiler import ProfilerActivity, profile

    times = 3
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            for _ in range(times):
                run()
            torch.cuda.synchronize()
        spent = {e.key[:60]: e.self_device_time_total / 1e3 / times for e in found.key_averages()}
    except Exception as error:
        return {failure(error)["note"][:60]: 0.0}
    return {name: ms for name, ms in sorted(spent.items(), key=lambda item: -item[1]) if ms}
