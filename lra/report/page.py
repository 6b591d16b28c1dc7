"""A report over runs: accuracies beside the guessers' and the published ones, learning curves, what was run where.

Two forms of the same content: ``report.md`` with its figures as files beside it, and ``report.html`` in one file.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from seqconv_kernels._core.errors import argument_error

from ..data.store import atomic_write
from ..recipes.catalog import create_recipe
from ..recipes.published import published_for
from ..training.metrics import read_lines
from .artifacts import read_exhibits
from .figures import confusion, example_images, impulse_responses, learning_curves

_FREE = frozenset(
    ("name", "task_options", "seed", "precision", "compile", "parallel", "accumulate", "eval_every", "source")
)
Table = Sequence[Sequence[str]]
"""Rows of cells, the header first."""


@dataclass(frozen=True)
class Run:
    """A run's folder, read.

    Attributes:
        about: ``run.json``.
        lines: ``metrics.jsonl``.
        result: ``result.json``; ``None`` while unfinished.
    """

    folder: Path
    about: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    result: Mapping[str, Any] | None

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Fields of the recipe."""
        return self.about["recipe"]  # type: ignore[no-any-return]

    @property
    def model(self) -> str:
        """The mixer, with what was made wrong on purpose: what the recipe's name says behind its task."""
        return str(self.recipe["name"].partition("/")[2])

    @property
    def kind(self) -> str:
        """What its numbers may be compared with."""
        changed = [] if self.recipe["reduced"] else self._changed()
        size = "reduced" if self.recipe["reduced"] else f"changed ({', '.join(changed)})" if changed else "full"
        return f"{size}, {'regenerated data' if 'generated' in self.about['data']['origin'] else 'original data'}"

    def _changed(self) -> list[str]:
        """What was overridden of the recipe that its name stands for, but for what should not move the numbers."""
        own = create_recipe(self.recipe["task"], self.recipe["mixer"]).as_dict()
        changed = [name for name in own if name not in _FREE and own[name] != self.recipe.get(name, own[name])]
        options = {k: v for k, v in self.recipe["task_options"].items() if k not in ("seed", "source")}
        return changed + [f"task.{name}" for name in options if options[name] != own["task_options"].get(name)]


def read_run(folder: Path) -> Run:
    """Read a run's folder.

    Raises:
        ValueError: it holds no run.
    """
    if not (folder / "run.json").is_file():
        raise argument_error(
            "report", f"no run.json in {folder}", "the folder of a run", "start one with 'python -m lra run'"
        )
    about = json.loads((folder / "run.json").read_text())
    lines = read_lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    finished = folder / "result.json"
    return Run(folder, about, lines, json.loads(finished.read_text()) if finished.exists() else None)


def find_runs(root: Path) -> list[Run]:
    """All runs below a folder, in the order of their names.

    Raises:
        ValueError: none there.
    """
    runs = [read_run(path.parent) for path in sorted(root.glob("**/run.json"))]
    if not runs:
        raise argument_error("report", f"no run below {root}", "at least one", "start one with 'python -m lra run'")
    return runs


def write_report(runs: Sequence[Run], folder: Path, title: str = "Long Range Arena", notes: Iterable[str] = ()) -> Path:
    """Write ``report.html``, ``report.md`` and its figures; return the page."""
    html, markdown = [f"<h1>{escape(title)}</h1>"], [f"# {title}"]
    for note in notes:
        html.append(f"<p>{escape(note)}</p>")
        markdown.append(note)
    for task in dict.fromkeys(run.recipe["task"] for run in runs):
        _section(task, [run for run in runs if run.recipe["task"] == task], folder, html, markdown)
    html.append("<h2>What was run where</h2>" + _html_table(_provenance(runs)))
    markdown += ["## What was run where", markdown_table(_provenance(runs))]
    atomic_write(folder / "report.md", "\n\n".join(markdown) + "\n")
    atomic_write(folder / "report.html", _PAGE.format(title=escape(title), body="\n".join(html)))
    return folder / "report.html"


def _section(task: str, runs: Sequence[Run], folder: Path, html: list[str], markdown: list[str]) -> None:
    tables = {"Accuracy": _accuracies(runs), "Published": _published(task, runs), "Cost": _costs(runs)}
    html.append(f"<h2>{escape(task)}</h2>")
    markdown.append(f"## {task}")
    for name, table in tables.items():
        if len(table) > 1:
            html.append(f"<h3>{name}</h3>" + _html_table(table))
            markdown += [f"### {name}", markdown_table(table)]
    for name, svg in _figures(runs).items():
        file = re.sub(r"[^\w.-]+", "-", f"{task}-{name}.svg")
        atomic_write(folder / file, svg)
        html.append(f"<figure>{svg}</figure>")
        markdown.append(f"![{name} on {task}]({file})")


def _figures(runs: Sequence[Run]) -> Mapping[str, str]:
    """Learning curves of all, then what each shows of itself."""
    names = _names(runs)
    curves = [(name, run.lines) for name, run in zip(names, runs, strict=True)]
    figures = {"learning-curves": learning_curves(curves, _lines(runs))}
    for name, run in zip(names, runs, strict=True):
        shown = read_exhibits(run.folder)
        if run.result is not None and "confusion" in run.result:
            figures[f"confusion-{name}"] = confusion(name, run.result["confusion"])
        if "images" in shown:
            figures[f"images-{name}"] = example_images(name, shown)
        if "kernels" in shown:
            figures[f"kernels-{name}"] = impulse_responses(name, shown)
    return figures


def _names(runs: Sequence[Run]) -> list[str]:
    """The models, with seed and folder as far as needed to tell them apart, so that no figure replaces another."""
    seeded = [f"{run.model}, seed {run.recipe['seed']}" for run in runs]
    models, alike = Counter(run.model for run in runs), Counter(seeded)
    return [
        run.model if models[run.model] == 1 else name if alike[name] == 1 else f"{name}, {run.folder.name}"
        for name, run in zip(seeded, runs, strict=True)
    ]


def _lines(runs: Sequence[Run]) -> Mapping[str, float]:
    """Accuracies of the guessers on the validation split."""
    finished = [run.result for run in runs if run.result is not None]
    return finished[0]["baselines"].get("val", {}) if finished else {}


def _accuracies(runs: Sequence[Run]) -> Table:
    table = [["model", "validation", "test", "kind"]]
    for name in _lines(runs):
        baselines = next(run.result for run in runs if run.result is not None)["baselines"]
        table.append([name, *(_percent(baselines.get(split, {}).get(name)) for split in ("val", "test")), "guesser"])
    for name, run in zip(_names(runs), runs, strict=True):
        found = run.result["accuracy"] if run.result is not None else {}
        kind = run.kind if run.result is not None else f"{run.kind}; unfinished"
        table.append([name, _percent(found.get("val")), _percent(found.get("test")), kind])
    return table


def _published(task: str, runs: Sequence[Run]) -> Table:
    rows = [row for run in runs for row in published_for(run.recipe["mixer"], task)]
    return [
        ["model", "test", "source"],
        *([model, f"{value:.2f} %", source] for model, value, source in dict.fromkeys(rows)),
    ]


def _costs(runs: Sequence[Run]) -> Table:
    table = [["model", "parameters", "steps", "wall-clock s", "CPU s", "sequences per s"]]
    for name, run in zip(_names(runs), runs, strict=True):
        if run.result is not None:
            spent = run.result["spent"]
            seconds = [f"{spent[key]:.0f}" for key in ("wall_s", "cpu_s")]
            size = f"{run.about['parameters']['all']:,}"
            rate = f"{run.result['sequences_per_s']:.1f}"
            table.append([name, size, str(spent["steps"]), *seconds, rate])
    return table


def _provenance(runs: Sequence[Run]) -> Table:
    """One column per run."""
    columns = []
    for run in runs:
        data, hardware = run.about["data"], run.about["hardware"]
        versions = {name: version for name, version in run.about["versions"].items() if version[:1].isdigit()}
        columns.append(
            {
                "task, mixer": f"{run.recipe['task']}, {run.recipe['mixer']}",
                "recipe": run.recipe["source"],
                "seed": str(run.recipe["seed"]),
                "data": f"{data['origin']}; {data['fingerprint'][:12]}",
                **{name: hardware[name] for name in ("python", "CPU", "threads", "accelerator") if name in hardware},
                "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
            }
        )
    names = dict.fromkeys(name for column in columns for name in column)
    return [["", *(run.folder.name for run in runs)], *([n, *(c.get(n, "-") for c in columns)] for n in names)]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def markdown_table(table: Table) -> str:
    """Rows of cells in Markdown."""
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    return "\n".join([rows[0], "|" + " --- |" * len(table[0]), *rows[1:]])


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row(table[0], 'th')}{''.join(row(cells, 'td') for cells in table[1:])}</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 60rem; margin: 2rem auto;
        padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 0.5rem 0 1.5rem; font-size: 0.9rem; display: block; overflow-x: auto; }}
th, td {{ text-align: left; padding: 0.3rem 0.8rem; border-bottom: 1px solid #ddd; vertical-align: top; }}
th {{ border-bottom: 2px solid #888; }}
figure {{ margin: 1rem 0; }} figure svg {{ max-width: 100%; height: auto; }}
</style></head><body>
{body}
</body></html>
"""
