"""``python -m benchmarks.gpu``: check every Triton kernel against float64, time it against its peers, write a report.

Needs a GPU, torch, Triton and transformers, no network and no installed seqconv: run it from the root of the project
with ``kernels`` on the path (``make gpu`` does). Without a GPU the same program runs at tiny sizes in Triton's
interpreter, and what it times then means nothing.

First everything is compiled and checked, in parallel processes, because compiling takes longer than running; then
one process times. The report is rewritten after every result. Where time on a GPU is short, take it in parts:
``--part checks --minutes 4`` leaves out all timing, ``--part times`` all checks, whose results it takes from an earlier
report (``--earlier``, or the one in ``--out``). ``--tune`` times other choices of blocks instead. What failed is
listed as entries for ``seqconv_kernels/_core/triton/withdrawn.py``, and the exit status is not 0.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .workers import Item, Job, Row, serve, work

RESULTS = Path(__file__).parents[1] / "results"
FIRST_PART = 0.5
"""Of the time, for compiling and checking; what that leaves is for timing."""
PATIENCE = {True: 200.0, False: 3600.0}
"""Seconds for one unit of work, its compiling included, with a GPU and in the interpreter."""
PLACES = {"check": "checks", "prepare": "prepared", "speed": "rows", "try": "prepared", "tune": "alternatives"}
"""What workers do, and where their rows go in the report."""
ENVIRONMENT = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # there is a process per case already
    "TRITON_CACHE_DIR": str(Path.home() / ".triton" / "cache"),  # or torch.compile moves it while a process runs
    "FLA_CACHE_RESULTS": "0",  # what fla chooses while others use the GPU would be held against it
    "PYTHONUNBUFFERED": "1",
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop at this time, with what there is [9]")
    parser.add_argument("--only", default="", metavar="OP", help="names that begin so")
    parser.add_argument("--workers", type=int, default=max(1, min((os.cpu_count() or 2) - 2, 14)), metavar="N")
    parser.add_argument("--part", choices=("all", "checks", "times"), default="all", help="leave out the other [all]")
    parser.add_argument("--earlier", type=Path, help="gpu.json of an earlier part [the one in --out]")
    parser.add_argument("--tune", action="store_true", help="time other choices of blocks, the best first")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--items", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    start = time.monotonic()
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":  # read when Triton is imported
        os.execve(sys.executable, sys.orig_argv, os.environ | {"TRITON_INTERPRET": "1"})
    if options.serve:
        everything = items(options.serve)
        return serve(everything[int(place)] for place in options.items.split(","))
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    report = run(options, start)
    failed = [row for row in report["checks"] if row["passed"] is False]
    missing = [row for row in report["checks"] if row["passed"] is None]
    sys.exit(f"{len(failed)} checks failed, {len(missing)} were not run" if failed or missing else 0)


def run(options: argparse.Namespace, start: float) -> dict[str, Any]:
    """Both parts, the report written as rows come."""
    from .report import continued, markdown, write

    gpu = torch.cuda.is_available()
    stem = ("tune" if options.tune else "gpu") + ("" if gpu else "-interpreted")
    report = continued(gpu, options.part, options.earlier or options.out / f"{stem}.json")
    first, second = jobs(options.tune, options.only, options.part)
    seconds, written = 60 * options.minutes, 0.0
    for part, workers, share in ((first, options.workers, FIRST_PART if second else 1.0), (second, 1, 1.0)):
        for kind, row in work(part, workers, start + share * seconds):
            if "ceilings" in row:
                report["ceilings"] = row["ceilings"]
            else:
                add(report[PLACES[kind]], row)
            print(f"{time.monotonic() - start:.0f} s", kind, *row.values(), flush=True)
            if time.monotonic() > written + 2:
                write(report, options.out, stem)
                written = time.monotonic()
    report["seconds"] = round(time.monotonic() - start)
    write(report, options.out, stem)
    print(markdown(report))
    return report


def add(rows: list[Row], row: Row) -> None:
    """Append a row, in place of an earlier one about the same contenders and more."""
    key = ("op", "case", "dtype", "direction")
    if "ms" in row and "direction" in row:
        rows[:] = [other for other in rows if any(other.get(name) != row[name] for name in key)]
    rows.append(row)


def items(kind: str) -> list[Item]:
    """All that workers of a kind may be asked for, the same in every process."""
    from . import cases, checks, speed, timed, tune

    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    if kind == "check":
        return checks.items(cases.checks("real" if gpu else "tiny"), device)
    if kind in ("try", "tune"):
        return [tune.item(choice, measured=kind == "tune") for choice in tune.choices(not gpu, device)]
    shapes = timed.timed(not gpu, device)
    if kind == "prepare":
        return [speed.prepare(shape) for shape in shapes]
    return [speed.measure_ceilings(), *map(speed.speed, shapes)]


def jobs(tune: bool, only: str, part: str = "all") -> tuple[list[Job], list[Job]]:
    """What runs in parallel, and what runs alone after it."""
    if tune:
        return [*_apart("try", only, lambda place, name: place)], [*_apart("tune", only, lambda place, name: 0)]
    checks, prepare, speed = list[Job](), list[Job](), list[Job]()
    if part != "times":
        checks = [*_apart("check", only, lambda place, name: (name["op"], name["dtype"]))]
    if part != "checks":
        prepare = [*_apart("prepare", only, lambda place, name: place)]
        speed = [*_apart("speed", only, lambda place, name: 0)]
    # The dtype that is used most comes first, should the time not suffice for all.
    first = [job for job in checks if job.names[0]["dtype"] == "bfloat16"]
    return [*first, *prepare, *(job for job in checks if job not in first)], speed


def _apart(kind: str, only: str, group: Callable[[int, Row], Any]) -> Iterator[Job]:
    """A job for each group of the items whose op begins with ``only``."""
    groups: dict[Any, list[tuple[int, Row]]] = {}
    gpu = torch.cuda.is_available()
    for place, item in enumerate(items(kind)):
        if item.name["op"].startswith((only, "ceilings")):
            key = group(place, item.name) if gpu else None  # the interpreter compiles nothing
            groups.setdefault(key, []).append((place, item.name))
    for members in groups.values():
        yield Job(kind, [place for place, _ in members], [name for _, name in members], PATIENCE[gpu])


if __name__ == "__main__":
    main()
