"""A report over runs: accuracies next to baselines and published results, learning curves, cost, provenance.

Two forms of the same content: ``report.md`` with its figures as files next to it, and ``report.html`` in one file.
``runs.csv`` has the numbers of every run; accuracies are also written as LaTeX tables.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..data.store import atomic_write
from ..training.artifacts import read_artifacts
from .figures import confusion, example_images, impulse_responses, learning_curves
from .markup import csv_table, html_table, latex_table, markdown_table
from .runs import Run, task_baselines, unique_names
from .tables import (
    accuracy_table,
    cost_table,
    differences_table,
    language_table,
    provenance_table,
    published_table,
    run_table,
    six_task_table,
)

TITLES = {
    "explained variance": "Explained variance",
    "macro AUROC": "Area under the receiver operating characteristic, mean over the labels",
    "bits per byte": "Share of right tokens",
    "perplexity": "Share of right tokens",
}
"""What is called accuracy, by the score of the task."""


def write_report(runs: Sequence[Run], folder: Path, title: str = "Long Range Arena", notes: Iterable[str] = ()) -> Path:
    """Write ``report.html``, ``report.md`` with its figures, ``runs.csv`` and tables in LaTeX; return the page."""
    html, markdown = [f"<h1>{escape(title)}</h1>"], [f"# {title}"]
    for note in notes:
        html.append(f"<p>{escape(note)}</p>")
        markdown.append(note)
    for task in dict.fromkeys(run.recipe["task"] for run in runs):
        _section(task, [run for run in runs if run.recipe["task"] == task], folder, html, markdown)
    six = six_task_table(runs)
    if len(six) > 1:
        html.append("<h2>Six tasks</h2>" + html_table(six))
        markdown += ["## Six tasks", markdown_table(six)]
        atomic_write(folder / "six-tasks.tex", latex_table(six))
    html.append("<h2>Provenance</h2>" + html_table(provenance_table(runs)))
    markdown += ["## Provenance", markdown_table(provenance_table(runs))]
    atomic_write(folder / "runs.csv", csv_table(run_table(runs)))
    atomic_write(folder / "report.md", "\n\n".join(markdown) + "\n")
    atomic_write(folder / "report.html", _PAGE.format(title=escape(title), body="\n".join(html)))
    return folder / "report.html"


def _section(task: str, runs: Sequence[Run], folder: Path, html: list[str], markdown: list[str]) -> None:
    title = TITLES.get(runs[0].about["data"].get("score", "accuracy"), "Accuracy")
    tables = {title: accuracy_table(runs), "Language modelling": language_table(runs)}
    tables |= {"Published": published_table(task, runs), "Cost": cost_table(runs)}
    tables["Differences from the published settings"] = differences_table(runs)
    html.append(f"<h2>{escape(task)}</h2>")
    markdown.append(f"## {task}")
    for name, table in tables.items():
        if len(table) > 1:
            html.append(f"<h3>{name}</h3>" + html_table(table))
            markdown += [f"### {name}", markdown_table(table)]
    atomic_write(folder / f"{task}-accuracy.tex", latex_table(tables[title]))
    if len(tables["Language modelling"]) > 1:
        atomic_write(folder / f"{task}-language.tex", latex_table(tables["Language modelling"]))
    for name, svg in _figures(runs).items():
        file = re.sub(r"[^\w.-]+", "-", f"{task}-{name}.svg")
        atomic_write(folder / file, svg)
        html.append(f"<figure>{svg}</figure>")
        markdown.append(f"![{name} on {task}]({file})")


def _figures(runs: Sequence[Run]) -> Mapping[str, str]:
    """Learning curves of all runs, then confusion, images and kernels of each."""
    names = unique_names(runs)
    curves = [(name, run.lines) for name, run in zip(names, runs, strict=True)]
    figures = {"learning-curves": learning_curves(curves, task_baselines(runs))}
    for name, run in zip(names, runs, strict=True):
        artifacts = read_artifacts(run.folder)
        if run.result is not None and "confusion" in run.result:
            figures[f"confusion-{name}"] = confusion(name, run.result["confusion"])
        if "images" in artifacts:
            figures[f"images-{name}"] = example_images(name, artifacts)
        if "kernels" in artifacts:
            figures[f"kernels-{name}"] = impulse_responses(name, artifacts)
    return figures


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
