"""The reduced protocol's record as Markdown, alone and inside a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqconv_kernels._core.errors import argument_error

from ..data.store import atomic_write
from ..report.page import markdown_table

SECTION = "reduced results"


def tables(record: Mapping[str, Any]) -> str:
    """Accuracy and cost of every model on every task, in Markdown."""
    tasks = list(record["guessers"])
    rows = record["rows"]
    models = [*dict.fromkeys(row["model"] for row in sorted(rows, key=lambda row: row["fault"] is not None))]
    found = {(row["model"], row["task"]): row for row in rows}
    accuracy = [["validation / test, %", *tasks]]
    accuracy += [[name, *(_guess(record["guessers"][task], name) for task in tasks)] for name in _guessers(record)]
    accuracy += [[name, *(_accuracy(found.get((name, task))) for task in tasks)] for name in models]
    cost = [["CPU seconds; 1,000 tokens per CPU second", *tasks]]
    cost += [[name, *(_cost(found.get((name, task))) for task in tasks)] for name in models]
    return "\n\n".join([_heading(record), markdown_table(accuracy), markdown_table(cost)]) + "\n"


def _heading(record: Mapping[str, Any]) -> str:
    versions = {name: version for name, version in record["versions"].items() if version[:1].isdigit()}
    about = {**record["machine"], **versions}
    trained = sum(len(row["seeds"]) for row in record["rows"])
    spent = sum(row["cpu_s"] * len(row["seeds"]) for row in record["rows"])
    lines = [
        f"Reduced protocol: {record['protocol']}. Trained: {trained} of its {trained + len(record['missing'])} runs.",
        "Accuracy of the checkpoint that is best on validation; a mean where several seeds were trained, with their",
        f"number in brackets. CPU seconds are those of one training with its evaluations, {spent:,.0f} in all runs.",
    ]
    lines += ["", ", ".join(f"{name} {value}" for name, value in about.items())]
    return "\n".join(lines)


def _guessers(record: Mapping[str, Any]) -> list[str]:
    """Names of guessers on any task, those that read an expression left to the page of ListOps."""
    names = dict.fromkeys(name for guesses in record["guessers"].values() for name in guesses["test"])
    return [name for name in names if not name.startswith("read to")]


def _guess(guesses: Mapping[str, Mapping[str, float]], name: str) -> str:
    if name not in guesses["test"]:
        return "-"
    return f"{100 * guesses['val'][name]:.1f} / {100 * guesses['test'][name]:.1f}"


def _accuracy(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    several = f" ({len(row['seeds'])})" if len(row["seeds"]) > 1 else ""
    return f"{100 * row['val']:.1f} / {100 * row['test']:.1f}{several}"


def _cost(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{row['cpu_s']:.0f}; {row['tokens_per_s'] / 1000:.1f}"


def marks(section: str) -> tuple[str, str]:
    """What stands in a page before and after a section that is written by a program."""
    return f"<!-- {section} -->\n", f"<!-- end of {section} -->"


def put_into(page: Path, text: str, section: str = SECTION) -> None:
    """Replace what stands between the two marks of a section of a page.

    Raises:
        ValueError: a mark is missing.
    """
    opens, closes = marks(section)
    before, opened, rest = page.read_text(encoding="utf-8").partition(opens)
    _, closed, after = rest.partition(closes)
    if not opened or not closed:
        remedy = f"write {opens.strip()!r} and {closes!r} where the tables belong"
        raise argument_error("put tables into a page", f"{page} without the marks", "both marks", remedy)
    atomic_write(page, before + opened + "\n" + text + "\n" + closed + after)
