"""The reduced protocol's record as Markdown tables."""

from collections.abc import Mapping
from typing import Any

from ..report.markup import markdown_table

SECTION = "reduced results"


def tables(record: Mapping[str, Any]) -> str:
    """Accuracy and cost of every model on every task, in Markdown."""
    tasks, baselines, rows = list(record["baselines"]), record["baselines"], record["rows"]
    models = [*dict.fromkeys(row["model"] for row in sorted(rows, key=lambda row: row["negative_control"] is not None))]
    found = {(row["model"], row["task"]): row for row in rows}
    accuracy = [["validation / test, %", *tasks]]
    accuracy += [[name, *(_baseline(baselines[task], name) for task in tasks)] for name in _baseline_names(record)]
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
    lines += [f"Failed: {cell}: {error}" for cell, error in record.get("failed", {}).items()]
    lines += ["", ", ".join(f"{name} {value}" for name, value in about.items())]
    return "\n".join(lines)


def _baseline_names(record: Mapping[str, Any]) -> list[str]:
    """Names of the baselines of any task; those that read an expression are in the section on ListOps."""
    names = dict.fromkeys(name for splits in record["baselines"].values() for name in splits["test"])
    return [name for name in names if not name.startswith("read to")]


def _baseline(splits: Mapping[str, Mapping[str, float]], name: str) -> str:
    if name not in splits["test"]:
        return "-"
    return f"{100 * splits['val'][name]:.1f} / {100 * splits['test'][name]:.1f}"


def _accuracy(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    several = f" ({len(row['seeds'])})" if len(row["seeds"]) > 1 else ""
    return f"{100 * row['val']:.1f} / {100 * row['test']:.1f}{several}"


def _cost(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{row['cpu_s']:.0f}; {row['tokens_per_s'] / 1000:.1f}"
