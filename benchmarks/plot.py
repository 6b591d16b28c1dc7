"""Time and memory against the length, one curve for each contender: ``results/<name>.svg``."""

from pathlib import Path
from typing import Any

DIRECTIONS = ("forward", "forward + backward")
PANELS = (("ms", "milliseconds"), ("mb", "megabytes beyond the inputs"))


def plot(report: dict[str, Any], title: str, path: Path, xlabel: str = "length") -> None:
    """Draw the rows of a report that has time and memory at several lengths."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(PANELS), len(DIRECTIONS), sharex=True, squeeze=False)
    for row, (quantity, label) in zip(axes, PANELS, strict=True):
        for axis, direction in zip(row, DIRECTIONS, strict=True):
            _curves(axis, [r for r in report["rows"] if r["direction"] == direction], quantity)
            axis.set(title=direction, xscale="log", yscale="log", xlabel=xlabel, ylabel=label)
            axis.set_xscale("log", base=2)
            axis.grid(alpha=0.3)
    axes[0][0].legend()
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write an SVG whose text depends on what is drawn alone: no date, no random names."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "seqconv"}):
        figure.savefig(path, metadata={"Date": None})


def _curves(axis: Any, rows: list[dict[str, Any]], quantity: str) -> None:
    names = dict.fromkeys(name for row in rows for name in row[quantity])
    for name in names:
        points = [(row["length"], row[quantity][name]) for row in rows if name in row[quantity]]
        axis.plot(*zip(*points, strict=True), marker="o", label=name, linewidth=2 if name == "seqconv" else 1)
    if quantity == "ms" and all("floor" in row for row in rows):
        floors = [(row["length"], row["floor"]["ms"]) for row in rows]
        axis.plot(*zip(*floors, strict=True), color="grey", linestyle=":", label="floor of this machine")
