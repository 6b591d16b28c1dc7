"""Results of the reduced protocol: gathered from run folders as one record, and shown as Markdown tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqconv_kernels._core.errors import argument_error

from ..data.store import atomic_write
from ..report.markup import put_into
from ..report.runs import Run, read_run
from ..tasks import TaskData, create_task
from ..training.grid import FAILURE
from ..training.metrics import read_lines
from .cells import Cell
from .tables import SECTION, tables

SAMPLED = 512
"""Rows that the mean length of a task is taken over."""


@dataclass(frozen=True)
class Finished:
    """A finished cell and its run."""

    cell: Cell
    run: Run
    result: Mapping[str, Any]


def finished(chosen: Sequence[Cell], folder: Path) -> list[Finished]:
    """The cells whose runs are finished."""
    done = [cell for cell in chosen if (folder / cell.folder / "result.json").exists()]
    found = [(cell, read_run(folder / cell.folder)) for cell in done]
    return [Finished(cell, run, run.result) for cell, run in found if run.result is not None]


def collect(chosen: Sequence[Cell], folder: Path, data_root: Path | None = None) -> dict[str, Any]:
    """All results as one JSON-able record: a row per model and task, all its seeds in it.

    ``val`` and ``test`` are means over the seeds; ``cpu_s`` is of one training with its evaluations; ``tokens_per_s``
    counts true tokens of the training per CPU second of the whole.

    Args:
        chosen: the cells asked for; those not finished are counted as missing.
        folder: of the run folders.
        data_root: of the prepared data.
    """
    done = finished(chosen, folder)
    groups: dict[tuple[str, str], list[Finished]] = {}
    for one in done:
        groups.setdefault((one.cell.task, one.cell.model), []).append(one)
    lengths = {}
    for task in dict.fromkeys(one.cell.task for one in done):
        recipe = next(one.run.recipe for one in done if one.cell.task == task)
        data = create_task(task, recipe["task_options"]).load(data_root)
        lengths[task] = mean_length(data) / recipe["patch_size"] ** 2
    return {
        "protocol": "small models and tasks on regenerated data; not to be compared with published numbers",
        "missing": [cell.folder for cell in chosen if not (folder / cell.folder / "result.json").exists()],
        "failed": {cell.folder: text for cell in chosen if (text := failure(folder / cell.folder))},
        "machine": _about(done, "hardware", ("CPU", "threads", "accelerator", "python")),
        "versions": _about(done, "versions", ("seqconv", "torch", "transformers")),
        "baselines": {one.cell.task: one.result["baselines"] for one in done},
        "rows": [_row(group, lengths[group[0].cell.task]) for group in groups.values()],
    }


def failure(folder: Path) -> str | None:
    """The error that a run's last try ended with."""
    path = folder / FAILURE
    return path.read_text(encoding="utf-8").split("\n")[0] if path.is_file() else None


def write_results(
    chosen: Sequence[Cell], folder: Path, results: Path, page: Path | None = None, data_root: Path | None = None
) -> Path:
    """Write ``lra_small.json`` and ``lra_small.md``, and the tables into a page; return the latter's path.

    Raises:
        ValueError: nothing is finished, or the page has no place for tables.
    """
    record = collect(chosen, folder, data_root)
    if not record["rows"]:
        raise argument_error("small", f"no finished run below {folder}", "at least one", "run it without --collect")
    results.mkdir(parents=True, exist_ok=True)
    atomic_write(results / "lra_small.json", json.dumps(record, indent=1) + "\n")
    atomic_write(results / "lra_small.md", "# Reduced protocol\n\n" + tables(record))
    if page is not None:
        put_into(page, tables(record), SECTION)
    return results / "lra_small.md"


def _about(done: Sequence[Finished], part: str, names: Sequence[str]) -> dict[str, str]:
    """Machine or versions of the runs; several values where they differ."""
    recorded = [one.run.about[part] for one in done]
    found = {name: dict.fromkeys(about[name] for about in recorded if name in about) for name in names}
    return {name: " or ".join(values) for name, values in found.items() if values}


def _row(group: Sequence[Finished], length: float) -> dict[str, Any]:
    recipe = group[0].run.recipe
    seconds = [read_lines(one.run.folder / "metrics.jsonl")[-1]["cpu_s"] for one in group]
    tokens = length * recipe["batch_size"] * recipe["steps"]
    accuracy = {split: [one.result["accuracy"][split] for one in group] for split in ("val", "test")}
    return {
        "task": group[0].cell.task,
        "model": group[0].cell.model,
        "negative_control": group[0].cell.control,
        "seeds": [one.cell.seed for one in group],
        **{split: float(np.mean(values)) for split, values in accuracy.items()},
        "by_seed": accuracy,
        "steps": recipe["steps"],
        "batch_size": recipe["batch_size"],
        "lr": recipe["lr"],
        "parameters": group[0].run.about["parameters"]["all"],
        "cpu_s": float(np.mean(seconds)),
        "tokens_per_s": tokens / float(np.mean(seconds)),
    }


def mean_length(data: TaskData) -> float:
    """Mean number of tokens (pixels) of the first rows of the training split."""
    rows = data.splits["train"]
    count = min(SAMPLED, len(rows))  # type: ignore[arg-type]  # every split has a length
    content = "pixels" if data.kind == "image" else "input_ids"
    return float(np.mean([np.size(rows[index][content]) for index in range(count)]))
