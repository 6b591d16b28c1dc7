"""How everything here is timed: both sides in turn, medians, and a record of the machine.

Time is that of the process with one thread, and of the wall with more. Fresh memory is expensive (a page fault per
4 kB), so both sides run with an allocator that keeps what it was given: :func:`keep_memory` restarts Python so.
"""

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version

import torch

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}


def keep_memory() -> None:
    """Restart this process with :data:`ALLOCATOR`, unless it runs so already."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | ALLOCATOR)


@dataclass(frozen=True)
class Machine:
    """What a figure depends on besides the code."""

    processor: str
    instruction_set: str
    cores: int
    threads: int
    load: float
    python: str
    torch: str
    transformers: str
    date: str

    @classmethod
    def here(cls) -> "Machine":
        """The machine that runs now."""
        from seqconv_kernels._core import native

        isa = native.unavailable() or native.library().isa()
        return cls(
            _processor(), isa, os.cpu_count() or 0, torch.get_num_threads(), round(os.getloadavg()[0], 1),
            platform.python_version(), torch.__version__, version("transformers"), date.today().isoformat(),
        )  # fmt: skip


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


COPIED, SQUARE = 1 << 25, 1536
"""Numbers that are copied, and rows of the matrix that is multiplied, to see what the machine does at most."""


@dataclass(frozen=True)
class Ceilings:
    """What this machine does at most with the threads in use, measured.

    Attributes:
        copy: bytes per second of a copy far larger than the caches, those read and those written.
        multiply: floating-point operations per second of a large float32 matrix product.
    """

    copy: float
    multiply: float

    @classmethod
    def here(cls, seconds: float = 2.0) -> "Ceilings":
        """Measure both in turn."""
        ms = interleaved(cls.runs(), seconds=seconds)
        return cls(1e3 * 2 * 4 * COPIED / ms["copy"], 1e3 * 2 * SQUARE**3 / ms["multiply"])

    @staticmethod
    def runs() -> dict[str, Callable[[], object]]:
        """What is measured."""
        source, square = torch.randn(COPIED), torch.randn(SQUARE, SQUARE)
        target, product = torch.empty_like(source), torch.empty_like(square)
        return {
            "copy": lambda: target.copy_(source),
            "multiply": lambda: torch.mm(square, square, out=product),
        }

    def floor(self, moved: float, operations: float) -> dict[str, float | str]:
        """Milliseconds below which no implementation gets, and what bounds it."""
        times = {"memory": 1e3 * moved / self.copy, "arithmetic": 1e3 * operations / self.multiply}
        bound = max(times, key=lambda name: times[name])
        return {"ms": times[bound], "bound": bound}


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    clock: Callable[[], float] | None = None,
    rounds: int = 3,
) -> dict[str, float]:
    """Median milliseconds of each contender, run in turn for about ``seconds`` altogether, ``rounds`` rounds at least.

    They are of the processor where one thread runs, and of the wall otherwise, unless a clock is given. What the
    process held before is not searched for garbage between the runs: that would empty the caches.
    """
    if clock is None:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    for run in contenders.values():
        run()
    gc.collect()
    gc.freeze()
    while time.perf_counter() < end or min(map(len, samples.values())) < rounds:
        for name, run in contenders.items():
            gc.collect()
            start = clock()
            run()
            samples[name].append(clock() - start)
    gc.unfreeze()
    return {name: 1e3 * statistics.median(times) for name, times in samples.items()}


def check_close(op: str, got: torch.Tensor, want: torch.Tensor, tolerance: float = 2e-4) -> None:
    """Stop before anything is timed if two contenders do not compute the same.

    Raises:
        RuntimeError: they differ by more than ``tolerance`` of the largest magnitude.
    """
    error = (got - want).abs().max() / want.abs().max()
    if not error <= tolerance:
        raise RuntimeError(f"{op}: the contenders differ by {error:.2g}, more than {tolerance:.0e}; nothing was timed")


def record(machine: Machine, rows: list[dict[str, object]], ceilings: Ceilings | None = None) -> dict[str, object]:
    """The JSON object of one run."""
    measured = {} if ceilings is None else {"ceilings": asdict(ceilings)}
    return {"machine": asdict(machine), "allocator": ALLOCATOR, **measured, "rows": rows}
