"""What was measured of the ops, as one table: ``python -m benchmarks table`` puts it into kernels/README.md."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lra.report.markup import markdown_table, put_into

from .table import OPS

PAGE = Path(__file__).parents[1] / "kernels" / "README.md"
SECTION = "measured ratios"


def ratios(results: Path) -> str:
    """Milliseconds of every op, and how many times longer each other contender takes, from the files of one folder."""
    reports = {path: json.loads(path.read_text()) for path in _files(results)}
    rows = [["op", "shape", "direction", "threads", "instructions", "load", "ms", "times as long"]]
    rows += [line for path, report in reports.items() for line in _lines(_op(path), report)]
    machines = dict.fromkeys(_words(report["machine"]) for report in reports.values())
    about = "Measured on " + "; ".join(machines) + ". Load is that of the machine when the measurement began."
    return f"{about}\n\n{markdown_table(rows)}\n"


def update(results: Path, page: Path = PAGE) -> None:
    """Put the table into the page.

    Raises:
        ValueError: the page has no place for it.
    """
    put_into(page, ratios(results), SECTION)


def _files(results: Path) -> Iterator[Path]:
    """Those of the ops, in the order of the ops, without the series over lengths."""
    for op in OPS:
        yield from sorted(path for path in results.glob(f"{op}-*-thread*.json") if not path.stem.endswith("-sweep"))


def _op(path: Path) -> str:
    return next(op for op in OPS if path.name.startswith(f"{op}-"))


def _words(machine: Mapping[str, Any]) -> str:
    names = ("processor", "cores", "python", "torch", "transformers")
    return ", ".join(f"{name.replace('_', ' ')} {machine[name]}" for name in names)


def _lines(op: str, report: Mapping[str, Any]) -> Iterator[list[str]]:
    machine = report["machine"]
    for row in report["rows"]:
        others = dict(row["ms"])
        seqconv_ms = others.pop("seqconv")
        times = ", ".join(f"{name} {ms / seqconv_ms:.1f}" for name, ms in others.items()) or "no peer ran it"
        about = [str(machine["threads"]), machine["instruction_set"], str(machine["load"])]
        yield [f"`{op}`", row["shape"], row["direction"], *about, f"{seqconv_ms:.1f}", times]
