"""``python -m benchmarks results``: one page with every measured figure, docs/results.md, the table of
docs/accelerate.md, and the picture of README.md.

Measures nothing: all figures come from the files of ``results/``, each with its command, machine and date.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lra.report.markup import markdown_table, put_into

from .plot import save

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
PICTURE = RESULTS / "overview.svg"
SECTION = "every measurement"
ACCELERATED = "accelerate-2-threads.json"
ACCELERATE_PAGE = PAGE.with_name("accelerate.md")
ACCELERATE_SECTION = "measured families"
HEADER = ["measurement", "against", "time of the best", "memory of the best", "command", "machine", "date"]
SWEEPS = {
    "selective scan (Mamba), 1,536 channels": "selective_scan-1-thread-avx2-sweep",
    "long convolution (Hyena), 768 channels": "fft_conv-1-thread-avx2-sweep",
}

UNITS = {"ms": "milliseconds", "mb": "megabytes"}


def update(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put the table into the page and draw the picture.

    Raises:
        ValueError: the page has no place for the table.
    """
    put_into(page, table(results), SECTION)
    if (measured := results / ACCELERATED).exists():
        put_into(ACCELERATE_PAGE, accelerated_table(measured), ACCELERATE_SECTION)
    draw(results, PICTURE)


def table(results: Path = RESULTS) -> str:
    """One row per file of results: the range, over its shapes, of how many times longer the best peer takes."""
    reports = {path: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    rows = [row for path, report in reports.items() if "allocator" in report and "rows" in report
            if (row := _row(path, report)) is not None]  # fmt: skip
    return markdown_table([HEADER, *rows]) + "\n"


def accelerated_table(measured: Path) -> str:
    """How many times as fast as transformers each family is, its share of memory, and on which machine."""
    report = json.loads(measured.read_text())
    families = dict.fromkeys(row["shape"] for row in report["rows"])
    directions = list(dict.fromkeys(row["direction"] for row in report["rows"]))
    lines = [["family", *directions, "training memory"]]
    for family in families:
        own = [row for row in report["rows"] if row["shape"] == family]
        speeds = [f"{row['ms']['transformers'] / row['ms']['seqconv']:.1f} ×" for row in own]
        memory = next(row["mb"] for row in own if "mb" in row)
        lines.append([family, *speeds, f"{memory['seqconv'] / memory['transformers']:.2f}"])
    machine = report["machine"]
    about = (
        f"{machine['processor']}, {machine['instruction_set']}, {machine['threads']} threads, torch {machine['torch']}"
    )
    return f"{markdown_table(lines)}\n\n{about}, transformers {machine['transformers']}, {machine['date']}.\n"


def _row(path: Path, report: Mapping[str, Any]) -> list[str] | None:
    if not all("ms" in row and "seqconv" in row["ms"] for row in report["rows"]):
        return None
    machine = report["machine"]
    peers = dict.fromkeys(name for row in report["rows"] for name in row["ms"] if name != "seqconv")
    link = f"[{path.stem}](../benchmarks/results/{path.with_suffix('.md').name})"
    directions = dict.fromkeys(row["direction"] for row in report["rows"])
    times = "; ".join(f"{d} {_range(_ratios(report, d))}" for d in directions if any(_ratios(report, d))) or "–"
    about = f"{machine['processor']}, {machine['instruction_set']}, torch {machine['torch']}"
    return [link, ", ".join(peers) or "–", times, _range(_memory(report)), f"`{command(path)}`", about, machine["date"]]


def command(path: Path) -> str:
    """The command that measures what a file holds."""
    name, _, rest = path.stem.partition("-")
    threads = f" --threads {rest[0]}" if rest[:1].isdigit() and rest[0] != "1" else ""
    return f"python -m benchmarks {name}{threads}{' --sweep' * path.stem.endswith('-sweep')}"


def _ratios(report: Mapping[str, Any], direction: str) -> Iterator[float]:
    """How many times longer the fastest other contender takes, for every shape."""
    for row in report["rows"]:
        others = [ms for name, ms in row["ms"].items() if name != "seqconv"]
        if others and row["direction"] == direction:
            yield min(others) / row["ms"]["seqconv"]


def _memory(report: Mapping[str, Any]) -> Iterator[float]:
    """How many times more memory the most frugal other contender takes; peaks below 1 MB say nothing."""
    for row in report["rows"]:
        others = [mb for name, mb in row.get("mb", {}).items() if name != "seqconv"]
        if others and row["mb"]["seqconv"] >= 1:
            yield min(others) / row["mb"]["seqconv"]


def _range(ratios: Iterator[float]) -> str:
    found = sorted(ratios)
    if not found:
        return "–"
    low, high = (f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}" for ratio in (found[0], found[-1]))
    return f"{low} ×" if low == high else f"{low} to {high} ×"


def draw(results: Path, path: Path) -> None:
    """Time and memory of training against the length, seqconv and its peers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for part, (title, name) in zip(figure.subfigures(1, len(SWEEPS)), SWEEPS.items(), strict=True):
        rows = [r for r in json.loads((results / f"{name}.json").read_text())["rows"] if r["direction"] != "forward"]
        part.suptitle(f"{title}: forward + backward", fontsize=9)
        for axis, (quantity, unit) in zip(part.subplots(1, 2), UNITS.items(), strict=True):
            _curves(axis, rows, quantity)
            axis.set(yscale="log", xlabel="tokens", ylabel=unit)
            axis.set_xscale("log", base=2)
            axis.grid(alpha=0.3)
        part.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    save(figure, path)


def _curves(axis: Any, rows: list[dict[str, Any]], quantity: str) -> None:
    for contender in dict.fromkeys(key for row in rows for key in row[quantity]):
        points = [(row["length"], row[quantity][contender]) for row in rows if contender in row[quantity]]
        width = 2.5 if contender == "seqconv" else 1.2
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=width, label=contender)
